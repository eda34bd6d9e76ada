"""``dct-seg export``: write a network as ONNX or ``torch.export`` graphs."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from dct_seg.arguments import CommandParser
from dct_seg.models.pretrained import DEFAULT


def main(args: Sequence[str]) -> int:
    """Run ``dct-seg export``.

    Returns:
        0.

    Raises:
        ValueError, FileNotFoundError, ImportError: When the network cannot be exported.
    """
    parser = CommandParser(
        prog="dct-seg export",
        description="Write a network as graphs that run without dct-seg: an image encoder and a click "
        "decoder with late fusion, a single network with early fusion, and the Auto-Drag-Head.",
    )
    parser.add_argument(
        "weights", nargs="?", default=DEFAULT, metavar="NAME_OR_PATH", help="(default: %(default)s)"
    )
    parser.add_argument("--format", choices=("onnx", "pt2"), default="onnx", help="(default: %(default)s)")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder of the graphs")
    given = parser.parse_args(args)
    from dct_seg.export.writing import export
    from dct_seg.models.network import InteractiveNetwork

    net = InteractiveNetwork.from_pretrained(given.weights)
    files = export(net, given.out, kind=given.format, source=str(given.weights))
    for file in files:
        sys.stdout.write(f"{file}  {file.stat().st_size / 2**20:.1f} MB\n")
    return 0
