"""Execute the notebooks and write each ``.ipynb`` from its ``.py`` file.

``python notebooks/run.py [NAME ...]``.

The ``.py`` file (jupytext's percent format) is the one to edit. ``--png DIR`` also writes every image, for
inspection.
"""

from __future__ import annotations

import argparse
import base64
import io
import os
import re
import sys
import tempfile
import time
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode
from PIL import Image

FOLDER = Path(__file__).parent
NAMES = sorted(path.stem for path in FOLDER.glob("[0-9]*.py"))
CELL_SECONDS = 900
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


def read_script(name: str) -> NotebookNode:
    """Read a notebook from its ``.py`` file, without outputs."""
    return jupytext.read(FOLDER / f"{name}.py", fmt="py:percent")


def executed(notebook: NotebookNode) -> NotebookNode:
    """Run a notebook from the first cell to the last in an empty folder, and return it with outputs.

    Raises:
        nbclient.exceptions.CellExecutionError: When a cell raises.
    """
    with tempfile.TemporaryDirectory() as empty:
        client = NotebookClient(
            notebook, timeout=CELL_SECONDS, resources={"metadata": {"path": empty}}, record_timing=False
        )
        client.execute(
            env={**os.environ, "PYTHONWARNINGS": "ignore:IProgress not found"}
        )  # progress bars are not widgets
        return tidy(notebook, empty)


def tidy(notebook: NotebookNode, folder: str) -> NotebookNode:
    """Remove everything that differs between machines (ids, versions, the folder's name); compress images."""
    notebook.metadata = NotebookNode(kernelspec=NotebookNode(KERNEL))
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number:02d}"
        cell.metadata = NotebookNode()
        for output in cell.get("outputs", []):
            if "text" in output:
                output["text"] = re.sub(rf"(?:/private)?{re.escape(folder)}/?", "", output["text"])
            if "image/png" in output.get("data", {}):
                output["data"]["image/png"] = smaller(output["data"]["image/png"])
    return notebook


def smaller(png: str) -> str:
    """Compress a PNG image in base64 to 128 colors, a third of the bytes."""
    image, buffer = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB"), io.BytesIO()
    image.quantize(128).save(buffer, format="PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()


def images(notebook: NotebookNode) -> list[bytes]:
    """List the PNG images among the outputs, in order."""
    data = [
        output["data"] for cell in notebook.cells for output in cell.get("outputs", []) if "data" in output
    ]
    return [base64.b64decode(one["image/png"]) for one in data if "image/png" in one]


def main() -> None:
    """Run the given notebooks, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", nargs="*", help=f"{', '.join(NAMES)} (all)")
    parser.add_argument(
        "--png", metavar="DIR", type=Path, help="also write every output image to this folder"
    )
    given = parser.parse_args()
    unknown = set(given.name) - set(NAMES)
    if unknown:
        parser.error(f"unknown notebook {', '.join(sorted(unknown))}; known: {', '.join(NAMES)}")
    for name in given.name or NAMES:
        start = time.perf_counter()
        notebook = executed(read_script(name))
        temporary = FOLDER / f".{name}.ipynb.new"
        nbformat.write(notebook, temporary)
        os.replace(temporary, FOLDER / f"{name}.ipynb")
        size = (FOLDER / f"{name}.ipynb").stat().st_size
        print(
            f"{name}: {time.perf_counter() - start:.0f} s, {len(images(notebook))} images, "
            f"{size / 1e3:.0f} kB"
        )
        if given.png:
            given.png.mkdir(parents=True, exist_ok=True)
            for number, image in enumerate(images(notebook), 1):
                (given.png / f"{name}_{number}.png").write_bytes(image)


if __name__ == "__main__":
    sys.exit(main())
