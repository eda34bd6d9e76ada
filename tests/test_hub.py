"""Weights on the Hugging Face Hub: pushed to and fetched from a local stand-in of its HTTP interface."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

import pytest
from networks import tiny_net

from dct_seg.models.hub import is_hub_name, model_card

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class StandIn(ThreadingHTTPServer):
    """The few requests of the Hub that an upload and a download make; files are kept in memory."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.uploads: dict[str, bytes] = {}
        self.asked: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: StandIn

    def do_HEAD(self) -> None:
        self._file(with_body=False)

    def do_GET(self) -> None:
        path = urlparse(self.path).path
        if path.startswith("/api/models/"):
            names = [{"rfilename": name} for name in self.server.files]
            return self._json({"id": "org/cells", "sha": COMMIT, "siblings": names})
        return self._file(with_body=True)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = urlparse(self.path).path
        self.server.asked.append(f"POST {path}")
        if path == "/api/repos/create":
            return self._json({"url": f"{self.server.url}/org/cells", "name": "org/cells"})
        if path == "/api/validate-yaml":
            return self._json({"errors": [], "warnings": []})
        if "/preupload/" in path:
            files = [
                {
                    "path": one["path"],
                    "uploadMode": "lfs" if one["path"].endswith("safetensors") else "regular",
                }
                for one in json.loads(body)["files"]
            ]
            return self._json({"files": [{**one, "shouldIgnore": False} for one in files]})
        if path.endswith("/info/lfs/objects/batch"):
            objects = [
                {**one, "actions": {"upload": {"href": f"{self.server.url}/lfs/{one['oid']}"}}}
                for one in json.loads(body)["objects"]
            ]
            return self._json({"transfer": "basic", "objects": objects})
        if "/commit/" in path:
            for line in body.decode().splitlines():
                told = json.loads(line)
                value = told["value"]
                if told["key"] == "file":
                    self.server.files[value["path"]] = base64.b64decode(value["content"])
                elif told["key"] == "lfsFile":
                    self.server.files[value["path"]] = self.server.uploads[value["oid"]]
            url = f"{self.server.url}/org/cells/commit/{COMMIT}"
            return self._json({"commitUrl": url, "commitOid": COMMIT, "success": True, "hookOutput": ""})
        return self._json({"error": f"no such request {path}"}, 404)

    def do_PUT(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.uploads[hashlib.sha256(content).hexdigest()] = content
        self._json({})

    def _file(self, *, with_body: bool) -> None:
        path = unquote(urlparse(self.path).path)
        self.server.asked.append(f"{self.command} {path}")
        _, _, rest = path.partition("/resolve/")
        content = self.server.files.get(rest.partition("/")[2])
        if content is None:
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound")
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(200)
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if with_body:
            self.wfile.write(content)

    def _json(self, answer: dict[str, Any], status: int = 200) -> None:
        content = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[StandIn]:
    with StandIn() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


ROUND_TRIP = """
import sys
from dct_seg import DCTNet, Predictor
net = DCTNet.from_pretrained(sys.argv[1])
print(net.push_to_hub("org/cells", half=False, training_data="drawn"))
again = DCTNet.from_pretrained("org/cells", revision="v1")
assert again.config == net.config, (again.config, net.config)
assert all((a == b).all() for a, b in zip(net.state_dict().values(), again.state_dict().values()))
print(again.card)
assert Predictor.from_pretrained("org/cells").method.net.config == net.config
try:
    DCTNet.from_pretrained("org/none", revision="v1")
except FileNotFoundError as error:
    print(error)
"""


@pytest.mark.slow
def test_weights_go_to_the_hub_and_come_back(hub: StandIn, tmp_path: Path) -> None:
    file = tiny_net().save_pretrained(tmp_path / "net.safetensors", license="mit")
    environment = {
        **os.environ,
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_OFFLINE": "0",
        "HF_TOKEN": "hf_test",
    }
    command = [sys.executable, "-c", ROUND_TRIP, str(file)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, f"{done.stderr}\n{hub.asked}"
    url, card, *_ = done.stdout.splitlines()
    assert url == f"{hub.url}/org/cells/commit/{COMMIT}"
    assert card == "{'license': 'mit', 'training_data': 'drawn'}"
    assert sorted(hub.files) == ["README.md", "config.json", "model.safetensors"]
    readme = hub.files["README.md"].decode()
    assert "license: mit\n" in readme
    assert "| training_data | drawn |" in readme
    assert json.loads(hub.files["config.json"])["backbone"] == "resnet18"
    assert "GET /org/cells/resolve/v1/model.safetensors" in hub.asked


def test_card_says_what_the_metadata_says() -> None:
    card = model_card("org/cells", {"training_data": "drawn\nshapes"}, {"backbone": "resnet18"})
    assert "license" not in card
    assert "| training_data | drawn shapes |" in card
    assert 'Predictor.from_pretrained("org/cells")' in card


@pytest.mark.parametrize("name", ["dct-lite0", "./a/b", "a/b/c", "a/b.safetensors", "/a/b", "a/../b"])
def test_path_is_no_name_on_the_hub(name: str) -> None:
    assert not is_hub_name(name)
