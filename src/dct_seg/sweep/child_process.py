"""Runs a module for as long as the process that started this one lives.

``python -m dct_seg.sweep.child_process MODULE ARGUMENT ...``.

The starter holds the other end of this process's standard input. However it ends, by SIGKILL too, that end
closes, and this process goes with all that it started.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
import threading

STDIN = 0


def main() -> None:
    """Watch, and run the module."""
    threading.Thread(target=_end_with_starter, daemon=True).start()
    sys.argv = sys.argv[1:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


def _end_with_starter() -> None:
    while os.read(STDIN, 1):
        pass
    if hasattr(os, "killpg") and os.getpgrp() == os.getpid():  # leads a group, that of its own workers
        os.killpg(os.getpid(), signal.SIGKILL)
    os._exit(1)


if __name__ == "__main__":
    main()
