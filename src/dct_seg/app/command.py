"""``dct-seg annotate``: serve the annotator for a folder to a browser."""

from __future__ import annotations

import secrets
import sys
import threading
import webbrowser
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dct_seg.arguments import CommandParser
from dct_seg.models.pretrained import DEFAULT

if TYPE_CHECKING:
    from dct_seg.app.schemas import ModelCard
    from dct_seg.methods.base import Method
    from dct_seg.methods.exported import Backend


def main(args: Sequence[str]) -> int:
    """Run ``dct-seg annotate``: serve until stopped.

    Returns:
        0.

    Raises:
        ValueError, FileNotFoundError, ImportError, OSError: When an argument cannot be used.
    """
    parser = CommandParser(
        prog="dct-seg annotate",
        description="Annotate a folder of images in the browser: press on an object, drag to its edge.",
    )
    parser.add_argument(
        "folder", metavar="DIR", help="folder of images, including subfolders; work is stored in DIR/.dct-seg"
    )
    parser.add_argument(
        "--work",
        metavar="DIR",
        help="folder for all output, outside the image folder, which may then be read-only",
    )
    parser.add_argument(
        "--window",
        metavar="LOW,HIGH",
        help="values shown as black and white in images with more than 8 bits, such as --window=-160,240; "
        "the page can choose another, for the folder or an image",
    )
    parser.add_argument(
        "--import",
        dest="imported",
        action="append",
        default=[],
        metavar="PATH",
        help="annotations to import at startup: a folder, a zip or a file; may be repeated",
    )
    parser.add_weights(DEFAULT)
    parser.add_argument(
        "--classes", default="", metavar="A,B,C", help="class names; existing classes of the folder are kept"
    )
    parser.add_argument(
        "--port", type=int, default=8765, metavar="N", help="port; 0 chooses a free one (8765)"
    )
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        metavar="H",
        help="0.0.0.0 serves the whole network; the address then contains a token",
    )
    parser.add_argument(
        "--no-browser", action="store_true", help="print the address without opening a browser"
    )
    given = parser.parse_args(args)
    try:
        import uvicorn  # noqa: F401

        from dct_seg.app import server
        from dct_seg.app.importing import Importer
        from dct_seg.app.project import Project
        from dct_seg.app.segmenter import Segmenter
        from dct_seg.data.brightness import Window
        from dct_seg.web.request_checks import LOOPBACK
        from dct_seg.web.server_socket import listen, serve, url_of
    except ImportError as error:
        raise ImportError(f"the annotator needs {error.name}; pip install 'dct-seg[app]'") from error

    names = [name.strip() for name in given.classes.split(",") if name.strip()]
    listener = listen(given.host, given.port)
    local = given.host in LOOPBACK
    token = None if local else secrets.token_urlsafe(24)
    project = Project(given.folder, names, work=given.work)
    if given.window:
        project.set_window(Window.read(given.window))
    make_method, card = _method(given.weights, given.backend)
    for path in given.imported:
        done = Importer(project, Segmenter(make_method)).import_path(path)
        sys.stdout.write(f"{path}: {done}\n")
    app = server.create_app(project, make_method, model=card, token=token, hosts=LOOPBACK if local else None)
    url = url_of(given.host, listener, token)
    sys.stdout.write(
        f"{len(project.folder.entries())} images in {Path(given.folder)}; press Ctrl+C to stop\n{url}\n"
    )
    sys.stdout.flush()
    if not given.no_browser:
        threading.Timer(0.5, webbrowser.open, [url]).start()
    serve(app, listener)
    return 0


def _method(weights: str, backend: Backend = "auto") -> tuple[Callable[[], Method], ModelCard]:
    """Make a factory of methods that share one network, and its description for the page."""
    from dct_seg.app.schemas import ModelCard
    from dct_seg.export.cache import load_for
    from dct_seg.methods.dctnet import DCTNetMethod

    net = load_for(weights, backend)
    return lambda: DCTNetMethod(net=net), ModelCard(name=Path(weights).stem, prompts="drag")
