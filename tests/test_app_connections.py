"""Stalled connections, and requests from pages of other sites."""

import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvicorn
from annotator import API, Page, make_folder

from dct_seg.app import safe_open
from dct_seg.web import connections, request_checks
from dct_seg.web.server_socket import server_config

SHORT = 0.4  # seconds


@pytest.fixture
def page(tmp_path: Path) -> Page:
    return Page(make_folder(tmp_path / "pictures"))


@pytest.fixture
def address(page: Page, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, int]]:
    """Address of a real server with short timeouts."""
    for name in ("HEAD_SECONDS", "UNREAD_SECONDS"):
        monkeypatch.setattr(connections, name, SHORT)
    monkeypatch.setattr(request_checks, "BODY_SECONDS", SHORT)
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(server_config(page.app))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield listener.getsockname()
    server.should_exit = True
    thread.join()


def until_closed(client: socket.socket, limit: float = 10) -> tuple[bytes, float]:
    """Response until the connection closes, and the seconds until then."""
    client.settimeout(limit)
    began, got = time.monotonic(), b""
    with contextlib.suppress(ConnectionResetError):
        while part := client.recv(65536):
            got += part
    return got, time.monotonic() - began


HOST = b"Host: 127.0.0.1\r\n"
HEAD = b"POST /api/v1/tabs HTTP/1.1\r\n" + HOST + b"Content-Type: application/json\r\nContent-Length: 100\r\n"
HALF_OPEN = [
    ("nothing", b"", b""),
    ("half a line", b"GET / HT", b""),
    ("headers without their end", b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n", b""),
    ("half a body", HEAD + b"\r\n{", b"408"),
    ("no body", HEAD + b"\r\n", b"408"),
]


@pytest.mark.parametrize(
    ("sent", "answered"), [row[1:] for row in HALF_OPEN], ids=[row[0] for row in HALF_OPEN]
)
def test_connection_that_stalls_during_a_request_is_closed(
    address: tuple[str, int], sent: bytes, answered: bytes
) -> None:
    with socket.create_connection(address) as client:
        client.sendall(sent)
        got, seconds = until_closed(client)
    assert seconds < 5
    assert answered in got.split(b"\r\n")[0]


def test_headers_sent_byte_by_byte_do_not_extend_the_deadline(address: tuple[str, int]) -> None:
    with socket.create_connection(address) as client:
        began = time.monotonic()
        with contextlib.suppress(OSError):
            for byte in b"GET / HTTP/1.1\r\nX-Slow: " + b"x" * 100:
                client.sendall(bytes([byte]))
                time.sleep(SHORT / 4)
        assert time.monotonic() - began < 5


def test_second_request_of_a_connection_has_a_deadline_too(address: tuple[str, int]) -> None:
    with socket.create_connection(address) as client:
        client.sendall(b"GET /api/v1/project HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        assert client.recv(12) == b"HTTP/1.1 200"
        client.sendall(b"GET /api")
        _, seconds = until_closed(client)
    assert seconds < 4  # below uvicorn's own deadline for an idle connection


def test_request_that_the_server_processes_slowly_is_answered(
    page: Page, address: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    scan = page.project.folder.scan

    def slow() -> object:
        time.sleep(3 * SHORT)
        return scan()

    monkeypatch.setattr(page.project.folder, "scan", slow)
    with socket.create_connection(address) as client:
        client.sendall(b"GET /api/v1/project HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
        got, _ = until_closed(client)
    assert got.startswith(b"HTTP/1.1 200")


READS = ["/project", "/openapi.json", "/export?format=coco", "/export?format=clicks"]
FOREIGN = [
    {"sec-fetch-site": "cross-site"},
    {"sec-fetch-site": "same-site"},
    {"origin": "https://evil.example"},
    {"origin": "null"},
    {"origin": "http://127.0.0.1:3000"},
]


@pytest.mark.parametrize("headers", FOREIGN, ids=str)
def test_page_of_another_site_can_read_nothing(page: Page, headers: dict[str, str]) -> None:
    page.click(20, 30)
    page.finish()
    paths = [*(f"{API}{path}" for path in READS), page.url(), page.url("/image"), f"{API}/nothing"]
    for path in paths:
        for method in ("GET", "HEAD", "OPTIONS"):
            answer = page.client.request(method, path, headers=headers)
            assert answer.status_code == 403, (method, path)
            assert "picture" not in answer.text


def test_own_page_and_a_typed_address_can_read_everything(page: Page) -> None:
    own: list[dict[str, str]] = [
        {},
        {"sec-fetch-site": "same-origin"},
        {"sec-fetch-site": "none"},
        {"origin": "http://127.0.0.1:8765", "sec-fetch-site": "same-origin"},
    ]
    for headers in own:
        for path in (*(f"{API}{path}" for path in READS), page.url(), page.url("/image")):
            assert page.client.get(path, headers=headers).status_code == 200, (path, headers)


def test_link_on_another_site_opens_the_page(page: Page) -> None:
    headers = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
    assert page.client.get("/", headers=headers).status_code in (200, 404)  # 404 if the page is not built


def test_disk_error_shows_no_absolute_path(
    page: Page, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object, **kwargs: object) -> object:
        raise OSError(28, "No space left on device", str(tmp_path / "pictures" / "a.png"))

    revision = page.click(20, 30)["revision"]
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        answer = page.client.post(page.url("/undo"), json={"revision": revision})
    assert (answer.status_code, "No space left on device" in answer.json()["error"]) == (507, True)
    assert str(tmp_path) not in answer.text
    with monkeypatch.context() as patch:
        patch.setattr("tempfile.NamedTemporaryFile", full)
        answer = page.client.get(f"{API}/export?format=coco")
    assert (answer.status_code, str(tmp_path) in answer.text) == (507, False)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may read and write everything")
def test_folder_without_permission_is_reported_without_its_path(page: Page, tmp_path: Path) -> None:
    own = page.project.folder.root / ".dct-seg"
    own.chmod(0o500)
    try:
        answer = page.client.post(
            page.url("/clicks"), json={"revision": 0, "click": {"row": 1, "col": 1, "positive": True}}
        )
        assert (answer.status_code, str(tmp_path) in answer.text) == (507, False), answer.text
    finally:
        own.chmod(0o700)


def test_dangling_link_is_listed_without_its_target(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "pictures")
    (root / "gone.png").symlink_to(tmp_path / "secret" / "place.png")
    (root / "pipe.png").symlink_to("/dev/zero")
    page = Page(root)
    text = page.client.get(f"{API}/project").text
    assert "gone.png" in text
    for hidden in (str(tmp_path), "secret", "/dev"):
        assert hidden not in text
    for name in ("gone.png", "pipe.png"):
        answer = page.client.get(page.url("/image", name))
        assert (answer.status_code, str(tmp_path) in answer.text) == (400, False)


@pytest.mark.parametrize("can_walk", [safe_open._CAN_WALK, False])
def test_image_that_becomes_a_link_while_it_is_opened_is_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, can_walk: bool
) -> None:
    """The link is swapped in after every look at the file, and before it is opened."""
    monkeypatch.setattr(safe_open, "_CAN_WALK", can_walk)
    root = make_folder(tmp_path / "pictures")
    outside = make_folder(tmp_path / "outside")
    page = Page(root)
    opening = os.open

    def swapped(path: object, *args: object, **kwargs: object) -> int:
        if os.fspath(path) in ("a.png", str(root / "a.png")):  # type: ignore[call-overload]
            (root / "a.png").unlink()
            (root / "a.png").symlink_to(outside / "a.png")
        return opening(path, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", swapped)
    answer = page.client.get(page.url("/image"))
    assert answer.status_code == 400, answer.text
    assert str(tmp_path) not in answer.text


def test_subfolder_that_becomes_a_link_while_it_is_opened_is_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_folder(tmp_path / "pictures")
    outside = make_folder(tmp_path / "outside")
    page = Page(root)
    opening = os.open

    def swapped(path: object, *args: object, **kwargs: object) -> int:
        if os.fspath(path) == "sub" and not (root / "sub").is_symlink():  # type: ignore[call-overload]
            (root / "sub").rename(tmp_path / "away")
            (root / "sub").symlink_to(outside / "sub")
        return opening(path, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", swapped)
    assert page.client.get(page.url("/image", "sub/b.png")).status_code == 400
    assert (root / "sub").is_symlink()  # it was swapped


def test_link_inside_the_folder_is_followed(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "pictures")
    (root / "link.png").symlink_to(root / "sub" / "b.png")
    page = Page(root)
    assert page.client.get(page.url("/image", "link.png")).status_code == 200
