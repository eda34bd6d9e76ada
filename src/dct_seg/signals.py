"""SIGINT and SIGTERM as an exception, so that files are closed and one line says how to resume."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)
Handler = Callable[[int, FrameType | None], None]


class Stopped(BaseException):
    """Exception for a signal that stops a command.

    It is not a ``KeyboardInterrupt``, which Lightning would convert to exit code 1.

    Args:
        signum: Number of the signal.
        advice: Advice on how to resume, or "".
    """

    def __init__(self, signum: int, advice: str = "") -> None:
        super().__init__(signum, advice)
        self.signum, self.advice = signum, advice

    @property
    def exit_code(self) -> int:
        """Exit code as in a shell, 128 plus the signal's number: 130 for SIGINT, 143 for SIGTERM."""
        return 128 + self.signum

    def __str__(self) -> str:
        """Format the signal and the advice as one line.

        Examples:
            >>> str(Stopped(signal.SIGINT, "to resume, run the same command"))
            'stopped by SIGINT; to resume, run the same command'
        """
        return f"stopped by {signal.Signals(self.signum).name}" + (f"; {self.advice}" if self.advice else "")


@contextmanager
def advising(advice: str) -> Iterator[None]:
    """Add advice on how to resume if the block is stopped."""
    try:
        yield
    except Stopped as stop:
        stop.advice = stop.advice or advice
        raise


@contextmanager
def raising_stopped() -> Iterator[None]:
    """Raise `Stopped` for SIGINT and SIGTERM inside the block, in the main thread."""

    def stop(signum: int, frame: FrameType | None) -> None:
        raise Stopped(signum)

    before = handle_here(stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def handle_here(handler: Handler) -> dict[int, Handler | int | None]:
    """Handle both signals in this process.

    A forked process ignores SIGINT, which Ctrl+C sends to both processes, and ends by SIGTERM.

    Returns:
        Previous handlers; none outside the main thread, where handlers cannot be set.
    """
    if threading.current_thread() is not threading.main_thread():
        return {}
    own = os.getpid()

    def handle(signum: int, frame: FrameType | None) -> None:
        if os.getpid() == own:
            handler(signum, frame)
            return
        if signum == signal.SIGTERM:
            signal.signal(signum, signal.SIG_DFL)
            os.kill(os.getpid(), signum)

    return {number: signal.signal(number, handle) for number in SIGNALS}
