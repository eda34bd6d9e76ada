"""Commands ``dct-seg serve`` and ``dct-seg label-studio``: serve predictions until stopped."""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dct_seg.arguments import CommandParser
from dct_seg.models.pretrained import DEFAULT

if TYPE_CHECKING:
    import argparse

    from starlette.types import ASGIApp

    from dct_seg.adapters.predictors import Predictors

TOKEN = "DCT_SEG_TOKEN"
"""Environment variable for a fixed token, instead of a new one at each start."""

MakeApp = Callable[["Predictors", str, "str | None", "Collection[str] | None"], "ASGIApp"]
"""Factory of an application from predictors, the weights' name, a token and the allowed hosts."""


def main(args: Sequence[str]) -> int:
    """Run ``dct-seg serve``.

    Returns:
        0.

    Raises:
        ValueError, FileNotFoundError, ImportError: When an argument cannot be used.
    """
    parser = parser_of("dct-seg serve", "Click segmentation over HTTP, for programs.", port=8766)
    given = parser.parse_args(args)
    try:
        from dct_seg.adapters.serve import API, create_app
    except ImportError as error:
        raise ImportError(f"`dct-seg serve` needs {error.name}; pip install 'dct-seg[app]'") from error

    def make(
        predictors: Predictors, weights: str, token: str | None, hosts: Collection[str] | None
    ) -> ASGIApp:
        return create_app(predictors, weights=weights, token=token, hosts=hosts)

    return run(given, make, f"{API.lstrip('/')}/openapi.json")


def label_studio(args: Sequence[str]) -> int:
    """Run ``dct-seg label-studio``.

    Returns:
        0.

    Raises:
        ValueError, FileNotFoundError, ImportError: When an argument cannot be used.
    """
    parser = parser_of("dct-seg label-studio", "Machine learning backend for Label Studio.", port=9090)
    parser.add_argument(
        "--allow-host",
        action="append",
        default=[],
        metavar="HOST",
        help="allow images from this host, such as storage with pre-signed URLs; may be repeated",
    )
    parser.epilog = "Set LABEL_STUDIO_URL to Label Studio's address and LABEL_STUDIO_API_KEY to its token."
    given = parser.parse_args(args)
    try:
        from dct_seg.adapters.label_studio import create_app
        from dct_seg.adapters.task_images import TaskImages
    except ImportError as error:
        raise ImportError(
            f"`dct-seg label-studio` needs {error.name}; pip install 'dct-seg[labelstudio]'"
        ) from error
    images = TaskImages(
        os.environ.get("LABEL_STUDIO_URL", ""), os.environ.get("LABEL_STUDIO_API_KEY", ""), given.allow_host
    )

    def make(
        predictors: Predictors, weights: str, token: str | None, hosts: Collection[str] | None
    ) -> ASGIApp:
        return create_app(predictors, images, weights=weights, token=token, hosts=hosts)

    return run(given, make, "")


def parser_of(prog: str, description: str, *, port: int) -> CommandParser:
    """Make a parser with the arguments of every server.

    Args:
        prog: Name of the command.
        description: One-line description.
        port: Default of ``--port``.
    """
    parser = CommandParser(prog=prog, description=description)
    parser.add_weights(DEFAULT)
    parser.add_argument(
        "--port", type=int, default=port, metavar="N", help=f"port; 0 chooses a free one ({port})"
    )
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        metavar="H",
        help=f"0.0.0.0 serves the whole network and requires a token: {TOKEN}, or a new one if it is not set",
    )
    return parser


def run(given: argparse.Namespace, make: MakeApp, path: str) -> int:
    """Serve until stopped.

    Args:
        given: ``weights``, ``backend``, ``host`` and ``port``.
        make: Factory of the application.
        path: Path appended to the printed address.

    Returns:
        0.
    """
    from dct_seg.adapters.predictors import Predictors
    from dct_seg.web.request_checks import LOOPBACK
    from dct_seg.web.server_socket import listen, serve, url_of

    listener = listen(given.host, given.port)
    is_local = given.host in LOOPBACK
    token = os.environ.get(TOKEN) or (None if is_local else secrets.token_urlsafe(24))
    predictors = Predictors.from_pretrained(given.weights, backend=given.backend)
    app = make(predictors, Path(given.weights).stem, token, LOOPBACK if is_local else None)
    sys.stdout.write(f"{url_of(given.host, listener)}{path}\n")
    if token and not os.environ.get(TOKEN):
        sys.stdout.write(f"token: {token}\n")
    sys.stdout.write("press Ctrl+C to stop\n")
    sys.stdout.flush()
    serve(app, listener)
    return 0
