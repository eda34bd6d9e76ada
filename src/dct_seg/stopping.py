"""SIGINT and SIGTERM as one exception, so that files are closed and one line says how to go on."""

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
    """Raised where a command is at work when it is told to stop.

    No ``KeyboardInterrupt``: Lightning would turn that into exit code 1.

    Args:
        signum: The signal.
        advice: Advice on how to resume, or "".
    """

    def __init__(self, signum: int, advice: str = "") -> None:
        super().__init__(signum, advice)
        self.signum, self.advice = signum, advice

    @property
    def exit_code(self) -> int:
        """128 and the signal's number, as a shell has it: 130 for SIGINT, 143 for SIGTERM."""
        return 128 + self.signum

    def __str__(self) -> str:
        """One line.

        Examples:
            >>> str(Stopped(signal.SIGINT, "the same command goes on from here"))
            'stopped by SIGINT; the same command goes on from here'
        """
        return f"stopped by {signal.Signals(self.signum).name}" + (f"; {self.advice}" if self.advice else "")


@contextmanager
def advising(advice: str) -> Iterator[None]:
    """Say how to go on when the block is stopped."""
    try:
        yield
    except Stopped as stop:
        stop.advice = stop.advice or advice
        raise


@contextmanager
def raising_stopped() -> Iterator[None]:
    """Raise :class:`Stopped` for SIGINT and SIGTERM inside the block, where it is the main thread's."""

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

    A process forked from it leaves SIGINT, which Ctrl+C sends to both, to this one, and ends by SIGTERM.

    Returns:
        The handlers before; none in another thread than the main one, where there can be none.
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
