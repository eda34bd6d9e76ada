"""Weights on the Hugging Face Hub: uploaded to and downloaded from a local mock of its HTTP interface."""

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

from dct_seg import Predictor
from dct_seg.methods import METHODS
from dct_seg.models.hub import is_hub_name, model_card
from dct_seg.models.network import InteractiveNetwork

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REVISIONS = ("main", "v1", "v2")


class StandIn(ThreadingHTTPServer):
    """The few requests of the Hub that an upload and a download make; files are kept in memory."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, dict[str, bytes]] = {}
        """Content by repository and file."""
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
            repository = "/".join(path.split("/")[3:5])
            names = [{"rfilename": name} for name in self.server.files.get(repository, {})]
            return self._json({"id": repository, "sha": COMMIT, "siblings": names})
        return self._file(with_body=True)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = urlparse(self.path).path
        self.server.asked.append(f"POST {path}")
        if path == "/api/repos/create":
            asked = json.loads(body)
            repository = f"{asked['organization']}/{asked['name']}"
            return self._json({"url": f"{self.server.url}/{repository}", "name": repository})
        if path == "/api/validate-yaml":
            return self._json({"errors": [], "warnings": []})
        if "/preupload/" in path:
            listed = [
                {
                    "path": one["path"],
                    "uploadMode": "lfs" if one["path"].endswith("safetensors") else "regular",
                }
                for one in json.loads(body)["files"]
            ]
            return self._json({"files": [{**one, "shouldIgnore": False} for one in listed]})
        if path.endswith("/info/lfs/objects/batch"):
            objects = [
                {**one, "actions": {"upload": {"href": f"{self.server.url}/lfs/{one['oid']}"}}}
                for one in json.loads(body)["objects"]
            ]
            return self._json({"transfer": "basic", "objects": objects})
        if "/commit/" in path:
            repository = "/".join(path.split("/")[3:5])
            files = self.server.files.setdefault(repository, {})
            for line in body.decode().splitlines():
                change = json.loads(line)
                value = change["value"]
                if change["key"] == "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                elif change["key"] == "lfsFile":
                    files[value["path"]] = self.server.uploads[value["oid"]]
            url = f"{self.server.url}/{repository}/commit/{COMMIT}"
            return self._json({"commitUrl": url, "commitOid": COMMIT, "success": True, "hookOutput": ""})
        return self._json({"error": f"no such request {path}"}, 404)

    def do_PUT(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.uploads[hashlib.sha256(content).hexdigest()] = content
        self._json({})

    def _file(self, *, with_body: bool) -> None:
        path = unquote(urlparse(self.path).path)
        self.server.asked.append(f"{self.command} {path}")
        repository, _, rest = path.strip("/").partition("/resolve/")
        revision, _, name = rest.partition("/")
        content = self.server.files.get(repository, {}).get(name)
        if content is None or revision not in REVISIONS:
            missing = "RevisionNotFound" if revision not in REVISIONS else "EntryNotFound"
            self.send_response(404)
            self.send_header("X-Error-Code", missing if repository in self.server.files else "RepoNotFound")
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
predictor = Predictor.from_pretrained("org/cells", revision="v2")
assert predictor.method.net.config == net.config
print(predictor.push_to_hub("org/nuclei", half=False, domain="nuclei"))
assert Predictor.from_pretrained("org/nuclei").method.net.card["domain"] == "nuclei"
for name, revision in (("org/none", "v1"), ("org/cells", "v3")):
    try:
        Predictor.from_pretrained(name, revision=revision)
    except FileNotFoundError as error:
        print(error)
"""


@pytest.mark.slow
def test_weights_are_uploaded_to_the_hub_and_downloaded_again(hub: StandIn, tmp_path: Path) -> None:
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
    url, card, again, *missing = done.stdout.splitlines()
    assert url == f"{hub.url}/org/cells/commit/{COMMIT}"
    assert again == f"{hub.url}/org/nuclei/commit/{COMMIT}"
    assert card == "{'license': 'mit', 'training_data': 'drawn'}"
    assert sorted(hub.files["org/cells"]) == ["README.md", "config.json", "model.safetensors"]
    readme = hub.files["org/cells"]["README.md"].decode()
    assert "license: mit\n" in readme
    assert "| training_data | drawn |" in readme
    assert json.loads(hub.files["org/cells"]["config.json"])["backbone"] == "test_resnet"
    reported = [line.partition(": ")[0] for line in missing]
    assert reported == ["no weights at 'org/none' in revision v1", "no weights at 'org/cells' in revision v3"]
    for name in ("cells/resolve/v1", "cells/resolve/v2", "nuclei/resolve/main"):
        assert f"HEAD /org/{name}/model.safetensors" in hub.asked


def test_card_has_the_metadata() -> None:
    card = model_card("org/cells", {"training_data": "drawn\nshapes"}, {"backbone": "resnet18"})
    assert "license" not in card
    assert "| training_data | drawn shapes |" in card
    assert 'Predictor.from_pretrained("org/cells")' in card


@pytest.mark.parametrize("name", ["dct-lite0", "./a/b", "a/b/c", "a/b.safetensors", "/a/b", "a/../b"])
def test_path_is_not_a_name_on_the_hub(name: str) -> None:
    assert not is_hub_name(name)


def test_predictor_without_weights_pushes_nothing() -> None:
    predictor = Predictor(METHODS.get("disc")())
    with pytest.raises(
        ValueError, match="push_to_hub uploads the weights of a network, but this predictor runs Disc"
    ):
        predictor.push_to_hub("org/cells")


def test_revision_of_weights_that_are_not_on_the_hub_is_refused(tmp_path: Path) -> None:
    file = tiny_net().save_pretrained(tmp_path / "net.safetensors")
    for name in (file, "dct-lite0"):
        with pytest.raises(ValueError, match="revision 'v1' belongs to weights on the Hugging Face Hub"):
            Predictor.from_pretrained(name, revision="v1")


def test_existing_folder_is_never_looked_up_on_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "org" / "cells").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match=r"folder 'org/cells' contains no model\.safetensors"):
        InteractiveNetwork.from_pretrained("org/cells")
