"""Build the serverless page with the documentation: ``mkdocs build`` writes it to ``browser/page``.

This needs npm and the extra [export]; without them, the page contains one line that names what is missing.
"""

from __future__ import annotations

import html
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).parent
PLACE = Path("browser") / "page"
WEIGHTS = "dct-lite0"
SWITCH = "DCT_SEG_PAGE"
"""Environment variable: 0 skips the page, whose network takes minutes to export the first time."""


class MissingError(Exception):
    """Reason why the page is not built, such as a missing tool."""


def on_startup(command: str, **others: Any) -> None:
    """Record whether the command is ``mkdocs serve``, which would build for minutes after every change."""
    global _is_served
    _is_served = command == "serve"


_is_served = False


def on_post_build(config: Any) -> None:
    """Build the page into the site, or write the reason why it was not built."""
    folder = Path(config["site_dir"]) / PLACE
    try:
        if _is_served:
            raise MissingError("`mkdocs serve` skips it; run `mkdocs build`")
        if os.environ.get(SWITCH) == "0":
            raise MissingError(f"{SWITCH}=0 skips it; unset it to build the page")
        build(folder)
        add_model(folder / "model")
    except MissingError as error:
        line = f"The page without a server was not built: {error}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        shown = f"<!doctype html><title>dct-seg in the browser</title><p>{html.escape(line)}</p>\n"
        (folder / "index.html").write_text(shown, encoding="utf-8")
        sys.stderr.write(f"{line}\n")


def build(folder: Path) -> None:
    """Build the page, without a network, into ``folder``.

    Raises:
        MissingError: When npm is missing, or cannot fetch the page's packages.
        RuntimeError: When the page's sources cannot be built.
    """
    if shutil.which("npm") is None:
        raise MissingError("npm is missing; install Node.js 20 or newer")
    if not (SOURCE / "node_modules").is_dir():
        fetched = _run("npm", "ci", "--no-audit", "--no-fund")
        if fetched.returncode:
            raise MissingError(f"`npm ci` in page/static failed: {_last_line(fetched)}")
    built = _run("npm", "run", "build", "--", "--outDir", str(folder.resolve()), "--emptyOutDir")
    if built.returncode:
        raise RuntimeError(f"`npm run build` in page/static failed: {built.stdout}{built.stderr}")


def add_model(folder: Path) -> None:
    """Copy an export of the shipped weights to ``folder``.

    Raises:
        MissingError: When the exporter is not installed.
    """
    try:
        from dct_seg.export.cache import cached_export

        exported = cached_export(WEIGHTS)
    except ImportError as error:
        raise MissingError(str(error)) from error
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(exported, folder)


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=SOURCE, capture_output=True, text=True, check=False)


def _last_line(done: subprocess.CompletedProcess[str]) -> str:
    return next((line for line in reversed(done.stderr.splitlines()) if line.strip()), "no message")
