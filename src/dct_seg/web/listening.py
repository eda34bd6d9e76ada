"""The socket of a server, the address that people open, and the server itself."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import uvicorn
    from starlette.types import ASGIApp


def listen(host: str, port: int) -> socket.socket:
    """A socket that is bound, so that a wrong address is told before anything is loaded.

    Args:
        host: Name or number of an interface.
        port: 0 takes a free one.

    Raises:
        ValueError: When it cannot be listened on.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except (OSError, OverflowError) as error:
        raise ValueError(
            f"{host}:{port} cannot be listened on ({error}); give another --port, or 0 for a free one"
        ) from error
    return listener


def url_of(host: str, listener: socket.socket, token: str | None = None) -> str:
    """The address to open.

    Args:
        host: Host given to :func:`listen`; a wildcard address becomes this machine's name.
        listener: The socket.
        token: Part of the address, if any.
    """
    name = socket.gethostname() if host in ("0.0.0.0", "::", "") else host
    name = f"[{name}]" if ":" in name else name
    return f"http://{name}:{listener.getsockname()[1]}/" + (f"?token={token}" if token else "")


def serve(app: ASGIApp, listener: socket.socket) -> None:
    """Serve until stopped.

    Args:
        app: The application.
        listener: The socket.
    """
    import uvicorn

    uvicorn.Server(server_config(app)).run(sockets=[listener])


def server_config(app: ASGIApp) -> uvicorn.Config:
    """Configure uvicorn: quiet, on connections with deadlines."""
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
