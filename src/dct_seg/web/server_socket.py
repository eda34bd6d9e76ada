"""Server: its socket, its address, and the uvicorn instance."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import uvicorn
    from starlette.types import ASGIApp

MAX_PORT = 65535


def listen(host: str, port: int) -> socket.socket:
    """Open a listening socket, so that a wrong address fails before anything is loaded.

    A client that connects before `serve` waits instead of being refused.

    Args:
        host: Name or number of an interface.
        port: Port; 0 chooses a free one.

    Raises:
        ValueError: When the address cannot be used.
    """
    if not 0 <= port <= MAX_PORT:  # otherwise the system would use the remainder modulo 65536
        raise ValueError(f"--port must be between 0 (a free one) and {MAX_PORT}, got {port}")
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen()
    except (OSError, OverflowError) as error:
        raise ValueError(
            f"cannot listen on {host}:{port} ({error}); choose another --port, or 0 for a free one"
        ) from error
    return listener


def url_of(host: str, listener: socket.socket, token: str | None = None) -> str:
    """Address to open in a browser.

    Args:
        host: Host given to `listen`; a wildcard address becomes this machine's name.
        listener: Socket of the server.
        token: Token to include in the address, or None.
    """
    name = socket.gethostname() if host in ("0.0.0.0", "::", "") else host
    name = f"[{name}]" if ":" in name else name
    return f"http://{name}:{listener.getsockname()[1]}/" + (f"?token={token}" if token else "")


def serve(app: ASGIApp, listener: socket.socket) -> None:
    """Serve until stopped.

    Args:
        app: Application.
        listener: Bound socket.
    """
    import uvicorn

    uvicorn.Server(server_config(app)).run(sockets=[listener])


def server_config(app: ASGIApp) -> uvicorn.Config:
    """Configure uvicorn: quiet, with connection timeouts."""
    import uvicorn

    from dct_seg.web.connections import TimedConnection

    return uvicorn.Config(
        app,
        http=TimedConnection,
        log_level="warning",
        server_header=False,
        timeout_graceful_shutdown=3,
        h11_max_incomplete_event_size=65536,
    )
