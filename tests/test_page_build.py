"""The shipped page is built from the current sources and matches the server's schema; node is not needed."""

from __future__ import annotations

import hashlib
import json
import re
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

APP = Path(str(files("dct_seg.app")))
PAGE = Path(__file__).parents[1] / "page"
STATIC = APP / "static"
BUILD = json.loads((STATIC / "build.json").read_text())
NAMES = {
    "SegmentedObject": "Object",
    "Click": "GivenClick",
    "Paint": "GivenPaint",
}
"""Types with another name in the page than in the schema, which TypeScript reserves or is clearer."""


def hashes(folder: Path, names: list[str]) -> dict[str, str]:
    found = [folder / name for name in names]
    paths = [path for one in found for path in (one.rglob("*") if one.is_dir() else [one]) if path.is_file()]
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths
    }


def test_page_was_built_from_its_current_sources() -> None:
    sources = ["index.html", "package.json", "package-lock.json", "tsconfig.json", "vite.config.ts", "src"]
    assert hashes(PAGE, sources) == BUILD["sources"], (
        "run `npm ci && npm run build` in page/ and commit src/dct_seg/app/static"
    )


def test_built_page_was_not_edited() -> None:
    assert hashes(STATIC, ["index.html", "assets"]) == BUILD["built"], (
        "run `npm ci && npm run build` in page/"
    )


def test_built_page_requests_only_its_own_files() -> None:
    html = (STATIC / "index.html").read_text()
    for address in re.findall(r'(?:src|href)="([^"#]+)"', html):
        assert (STATIC / address).is_file(), address
    assert "<style" not in html
    assert re.search(r"\s(style|on\w+)=", html) is None
    assert re.search(r"<script(?![^>]*\ssrc=)", html) is None
    for path in STATIC.rglob("*.css"):
        assert re.search(r"@import|https?:|url\((?!\.)", path.read_text()) is None


def interfaces() -> dict[str, dict[str, str]]:
    """Name of each interface in the page's api.ts -> its fields and their types."""
    source = (PAGE / "src" / "api.ts").read_text()
    found = re.findall(r"export interface (\w+) \{\n(.*?)\n\}", source, flags=re.DOTALL)
    return {name: dict(re.findall(r"^  (\w+): (.+);$", body, flags=re.MULTILINE)) for name, body in found}


INTERFACES = interfaces()


@pytest.fixture(scope="module")
def schema(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    pytest.importorskip("fastapi", reason="needs the extra [app]")
    from annotator import Page, make_folder

    page = Page(make_folder(tmp_path_factory.mktemp("pictures")))
    found: dict[str, Any] = page.app.openapi()["components"]["schemas"]
    page.project.close()
    return found


@pytest.mark.parametrize("name", INTERFACES)
def test_types_in_the_page_match_the_servers_schema(name: str, schema: dict[str, Any]) -> None:
    properties = schema[NAMES.get(name, name)]["properties"]
    for field, kind in INTERFACES[name].items():
        assert field in properties, f"the server has no {name}.{field}; it has {', '.join(properties)}"
        may_be_null = any(one.get("type") == "null" for one in properties[field].get("anyOf", []))
        assert may_be_null == kind.endswith("| null"), (
            f"{name}.{field} is {kind} in the page, {properties[field]} in the server"
        )


def test_all_formats_of_the_menu_are_known_to_the_server() -> None:
    from typing import get_args

    exports = pytest.importorskip("dct_seg.app.exports", reason="needs the extra [app]")
    source = (PAGE / "src" / "api.ts").read_text()
    menu = re.findall(r"^  (\w+): \"", source.split("export const FORMATS")[1], flags=re.MULTILINE)
    assert menu == list(get_args(exports.Format))


def test_page_and_server_give_classes_the_same_colors() -> None:
    project = pytest.importorskip("dct_seg.app.project", reason="needs the extra [app]")
    palette = re.search(r"const PALETTE = \[(.*?)\]", (PAGE / "src" / "session.ts").read_text())
    assert palette is not None
    assert tuple(re.findall(r"#\w{6}", palette[1])) == project.COLORS


def test_page_calls_an_image_image() -> None:
    html = (PAGE / "index.html").read_text()
    visible = re.findall(r' (?:aria-label|title|placeholder)="([^"]*)"', html) + re.findall(
        r">([^<>]+)<", html
    )
    for path in (PAGE / "src").glob("*.ts"):
        texts = re.findall(r"\"([^\"\n]*)\"|`([^`\n]*)`", path.read_text())
        visible += [one or other for one, other in texts if " " in (one or other)]
    assert len(visible) > 200
    spoken = [re.sub(r"\$\{[^}]*\}", "", text) for text in visible]
    assert [
        text for text in spoken if re.search(r"\b(pictures?|photos?|photographs?)\b", text, re.IGNORECASE)
    ] == []
