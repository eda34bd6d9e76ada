"""Connection timeouts, so that a stalled client does not tie up resources."""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_SECONDS = 10.0
"""Timeout in seconds for the headers of a request, from its first byte or the start of the connection."""
UNREAD_SECONDS = 60.0
"""Timeout in seconds for a client that does not read the response."""


class TimedConnection(H11Protocol):
    """Connection of uvicorn with timeouts; uvicorn itself only limits the time between two requests."""

    _head: asyncio.TimerHandle | None = None
    _unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the timeout for the first request."""
        super().connection_made(transport)
        self._await_head()

    def data_received(self, data: bytes) -> None:
        """Receive bytes; bytes of the headers do not extend their timeout."""
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._cancel_head()
        elif self._head is None:
            self._await_head()

    def pause_writing(self) -> None:
        """Start the timeout for a client that does not read."""
        super().pause_writing()
        self._unread = self.loop.call_later(UNREAD_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        """Resume writing."""
        super().resume_writing()
        if self._unread is not None:
            self._unread.cancel()

    def timeout_keep_alive_handler(self) -> None:
        """Close an idle connection; drop it if the client does not read the last response."""
        super().timeout_keep_alive_handler()
        self.loop.call_later(UNREAD_SECONDS, self.transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel the timeouts."""
        self._cancel_head()
        super().connection_lost(exc)
        if self._unread is not None:
            self._unread.cancel()

    def _await_head(self) -> None:
        self._head = self.loop.call_later(HEAD_SECONDS, self.transport.abort)

    def _cancel_head(self) -> None:
        if self._head is not None:
            self._head.cancel()
            self._head = None
