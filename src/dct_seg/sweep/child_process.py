"""Run a module in a process that ends with its parent process.

``python -m dct_seg.sweep.child_process MODULE ARGUMENT ...``.

The parent holds the other end of this process's standard input. When the parent ends, even by SIGKILL, the
pipe closes, and this process ends with all its children.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
import threading

STDIN = 0


def main() -> None:
    """Watch the parent, and run the module."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    sys.argv = sys.argv[1:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


def _end_with_parent() -> None:
    while os.read(STDIN, 1):
        pass
    if hasattr(os, "killpg") and os.getpgrp() == os.getpid():  # leads the process group of its workers
        os.killpg(os.getpid(), signal.SIGKILL)
    os._exit(1)


if __name__ == "__main__":
    main()
