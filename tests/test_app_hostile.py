"""Malformed and hostile requests, and their responses."""

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from annotator import API, Discs, Page, make_folder
from fuzzing import try_all, with_known
from PIL import Image

JSON = {"content-type": "application/json"}
CLICK = '{"revision":0,"click":{"row":20,"col":30,"positive":true,"radius":6}}'


@pytest.fixture
def page(tmp_path: Path) -> Page:
    return Page(make_folder(tmp_path / "pictures"))


def with_click(**values: str) -> str:
    fields = {"row": "20", "col": "30", "positive": "true", "radius": "6", **values}
    return '{"revision":0,"click":{' + ",".join(f'"{key}":{value}' for key, value in fields.items()) + "}}"


BODIES = [
    ("no JSON", "{", 422, "JSON decode error"),
    ("nothing", "", 422, "Field required"),
    ("a list", "[]", 422, "valid dictionary"),
    ("another encoding", b"\xff\xfe{", 400, "parsing the body"),
    ("100,000 brackets", "[" * 100_000, 400, "parsing the body"),
    ("a number of 5,000 digits", with_click(row="9" * 5000), 400, "parsing the body"),
    ("NaN", with_click(row="NaN"), 422, "click.row: Input should be a finite number"),
    ("infinity", with_click(radius="Infinity"), 422, "click.radius: Input should be"),
    ("1e999", with_click(col="1e999"), 422, "click.col: Input should be"),
    (
        "a negative radius",
        with_click(radius="-1"),
        422,
        "click.radius: Input should be greater than or equal to 0",
    ),
    ("a radius of light years", with_click(radius="1e300"), 422, "click.radius: Input should be less than"),
    ("a click outside", with_click(row="40"), 400, "lies outside the image of 40 rows and 60 columns"),
    ("text for a number", with_click(row='"up"'), 422, "click.row: Input should be a valid number"),
    (
        "text for yes or no",
        with_click(positive='"yes"'),
        422,
        "click.positive: Input should be a valid boolean",
    ),
    ("a misspelt field", with_click(raduis="3"), 422, "click.raduis: Extra inputs are not permitted"),
    (
        "a revision that is gone",
        CLICK.replace('"revision":0', '"revision":5'),
        409,
        "the revision must be 0, got 5",
    ),
    (
        "a revision that is no number",
        CLICK.replace('"revision":0', '"revision":"0"'),
        422,
        "revision: Input should be a valid integer",
    ),
    (
        "a threshold of 2",
        CLICK.replace('"revision":0', '"revision":0,"threshold":2'),
        422,
        "threshold: Input should be less than 1",
    ),
    ("2 MiB of spaces", " " * 2**21, 413, "must be at most 1 MiB"),
]


@pytest.mark.parametrize(
    ("body", "status", "message"), [row[1:] for row in BODIES], ids=[row[0] for row in BODIES]
)
def test_a_wrong_body_is_reported_and_changes_nothing(
    page: Page, body: Any, status: int, message: str
) -> None:
    answer = page.client.post(page.url("/clicks"), content=body, headers=JSON)
    assert (answer.status_code, message in answer.json()["error"]) == (status, True), answer.text
    assert "\n" not in answer.json()["error"]
    assert page.revision() == 0
    assert not list(page.project.folder.root.glob(".dct-seg/pictures/*"))


HEADERS = [
    (
        "a Host that is not ours",
        {"host": "evil.example:8765"},
        403,
        "got 'evil.example:8765'; change the address",
    ),
    ("a Host with a user", {"host": "127.0.0.1@evil.example"}, 403, "the Host header must be one of"),
    ("a Host with our name first", {"host": "127.0.0.1.evil.example"}, 403, "the Host header must be one of"),
    (
        "another site's Origin",
        {"origin": "https://evil.example"},
        403,
        "a page of 'https://evil.example' must not change",
    ),
    ("our name at another port", {"origin": "http://127.0.0.1:9999"}, 403, "must not change anything"),
    ("the Origin null", {"origin": "null"}, 403, "must not change anything"),
    ("a form of another site", {"sec-fetch-site": "cross-site"}, 403, "another site's page"),
    (
        "text/plain",
        {"content-type": "text/plain"},
        415,
        "the content type must be application/json, got 'text/plain'",
    ),
    ("a form", {"content-type": "application/x-www-form-urlencoded"}, 415, "must be application/json, got"),
    ("no content type", {"content-type": ""}, 415, "must be application/json, got"),
    ("a length that lies", {"content-length": "99999999999"}, 413, "must be at most 1 MiB"),
    ("a tab's name of 1,000 letters", {"x-dct-seg-tab": "x" * 1000}, 422, "at most 64 characters"),
]


@pytest.mark.parametrize(
    ("headers", "status", "message"), [row[1:] for row in HEADERS], ids=[row[0] for row in HEADERS]
)
def test_wrong_header_is_refused(page: Page, headers: dict[str, str], status: int, message: str) -> None:
    answer = page.client.post(page.url("/clicks"), content=CLICK, headers={**JSON, **headers})
    assert (answer.status_code, message in answer.json()["error"]) == (status, True), answer.text
    assert page.revision() == 0


def test_own_origin_may_change_things(page: Page) -> None:
    answer = page.client.post(
        page.url("/clicks"), content=CLICK, headers={**JSON, "origin": "http://127.0.0.1:8765"}
    )
    assert answer.status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        "/pictures/..%2f..%2fetc%2fpasswd",
        "/pictures/../../../etc/passwd",
        "/pictures/a.png",
        "/pictures/%00",
        "/pictures/" + "a" * 63,
        "/pictures/..%2f..%2fetc%2fpasswd/image",
        "/../../assets/..%2f..%2fcommand.py",
    ],
)
def test_no_path_leads_to_a_file_outside(page: Page, path: str) -> None:
    answer = page.client.get(API + path)
    assert answer.status_code == 404
    assert "root:" not in answer.text


@pytest.mark.parametrize(
    "path", ["/assets/..%2f..%2fcommand.py", "/assets/%2e%2e/%2e%2e/command.py", "/assets//etc/passwd"]
)
def test_assets_are_the_pages_files_only(page: Page, path: str) -> None:
    assert page.client.get(path).status_code == 404


def png_header(width: int, height: int) -> bytes:
    """A PNG with a large size in its header and no pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
        + chunk(b"IEND", b"")
    )


def cut(path: Path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:3000])


def cut_avif(path: Path) -> None:
    if "AVIF" not in Image.SAVE:
        Image.init()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:-300])


def write_outside(path: Path) -> None:
    outside = path.parent.parent / "secret.png"
    Image.new("RGB", (5, 5)).save(outside)
    path.symlink_to(outside)


FILES: list[tuple[str, str, Any, str]] = [
    ("nonsense", "x.jpg", lambda path: path.write_bytes(b"nonsense"), "cannot be decoded"),
    ("empty", "x.png", lambda path: path.write_bytes(b""), "cannot be decoded"),
    ("cut short", "x.png", cut, "cannot be decoded"),
    (
        "a header of 60,000 x 60,000",
        "x.png",
        lambda path: path.write_bytes(png_header(60_000, 60_000)),
        "at most 100 megapixels",
    ),
    (
        "a header of 2,000,000 x 2",
        "x.png",
        lambda path: path.write_bytes(png_header(2_000_000, 2)),
        "at most 100 megapixels",
    ),
    (
        "PostScript under another name",
        "x.png",
        lambda path: path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"),
        "cannot be decoded",
    ),
    (
        "a row of 65,535 pixels",
        "x.png",
        lambda path: Image.new("RGB", (65_535, 1)).save(path),
        "65500 pixels per side",
    ),
    ("AVIF cut short", "x.avif", cut_avif, "cannot be decoded"),
    ("a link out of the folder", "x.png", write_outside, "is a link to a file outside the folder"),
    ("a link to itself", "x.png", lambda path: path.symlink_to(path), "cannot be decoded"),
    ("a link to nowhere", "x.png", lambda path: path.symlink_to("nowhere.png"), "cannot be decoded"),
]


@pytest.mark.parametrize(
    ("name", "make", "message"), [row[1:] for row in FILES], ids=[row[0] for row in FILES]
)
def test_file_that_cannot_be_opened_is_listed_with_its_error(
    tmp_path: Path, name: str, make: Any, message: str
) -> None:
    root = make_folder(tmp_path / "pictures")
    make(root / name)
    page = Page(root)
    answers = [page.client.get(page.url(rest, name)) for rest in ("", "/image")]
    answers.append(page.client.post(page.url("/clicks", name), content=CLICK, headers=JSON))
    for answer in answers:
        assert answer.status_code == 400
        assert message in answer.json()["error"]
        assert str(tmp_path) not in answer.text
    listed = {one["name"]: one["error"] for one in page.ok(page.client.get(f"{API}/project"))["pictures"]}
    assert message in listed[name]
    assert listed["a.png"] is None
    assert page.click(20, 30)["revision"] == 1


def test_unexpected_decoder_exception_is_not_a_server_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = Page(make_folder(tmp_path / "pictures"))

    def fail(*args: Any) -> None:
        raise RuntimeError("Failed to decode frame 0")

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", fail)
    for rest in ("", "/image"):
        answer = page.client.get(page.url(rest))
        assert answer.status_code == 400
        assert answer.json()["error"].startswith("a.png cannot be decoded (Failed to decode frame 0)")


def test_file_that_becomes_a_link_after_the_start_is_not_followed(tmp_path: Path) -> None:
    page = Page(make_folder(tmp_path / "pictures"))
    image = page.project.folder.root / "a.png"
    image.unlink()
    write_outside(image)
    answer = page.client.get(page.url("/image"))
    assert (answer.status_code, "outside the folder" in answer.json()["error"]) == (400, True)


def test_own_folder_that_is_a_link_is_refused(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "pictures")
    (tmp_path / "elsewhere").mkdir()
    (root / ".dct-seg").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="is a link; replace it with a folder"):
        Page(root)


def test_token_is_required_for_everything_except_the_pages_files(tmp_path: Path) -> None:
    page = Page(make_folder(tmp_path / "pictures"), token="sesame", hosts=None)
    for path in (
        "/",
        f"{API}/project",
        f"{API}/openapi.json",
        page.url("/image"),
        f"{API}/project?token=wrong",
        f"{API}/project?token=",
    ):
        assert page.client.get(path).status_code == 403
    assert page.client.get(f"{API}/project?token=sesame").status_code == 200
    assert (
        page.client.get(
            f"{API}/project", headers={"X-DCT-Seg-Token": "sesame", "host": "my.lab:8765"}
        ).status_code
        == 200
    )
    assert page.client.get("/assets/nothing.js").status_code == 404


def test_every_response_has_the_security_headers(page: Page) -> None:
    for path in (f"{API}/project", f"{API}/nothing", "/", "/assets/nothing.js"):
        headers = page.client.get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert "access-control-allow-origin" not in headers
    assert (
        page.client.get(f"{API}/project", headers={"host": "evil.example"}).headers["x-content-type-options"]
        == "nosniff"
    )


@pytest.mark.slow
def test_every_response_matches_the_schema(tmp_path: Path) -> None:
    page = Page(make_folder(tmp_path / "pictures"), Discs, hosts=None)
    page.click(20, 30)
    page.finish()
    known = {"image_id": [*page.ids.values(), "unknown"], "number": [1, 2]}
    assert try_all(with_known(page.app, f"{API}/openapi.json", known)) >= 14
