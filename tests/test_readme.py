"""The commands and code of the README and of "Get started" do what they say."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dct_seg import DCTNet, DCTNetConfig
from dct_seg.cli import main

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
GET_STARTED = {
    path.stem: path.read_text(encoding="utf-8")
    for path in sorted((ROOT / "docs" / "get_started").glob("*.md"))
}
COMMANDS = [
    line
    for page in (README, *GET_STARTED.values())
    for block in re.findall(r"```console\n(.*?)```", page, re.DOTALL)
    for line in block.splitlines()
    if line.startswith("dct-seg ")
]


@pytest.mark.parametrize("page", [README, GET_STARTED["predict"]], ids=["README", "predict"])
def test_the_python_snippet_runs_as_it_stands(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (snippet,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (240, 320, 3), dtype=np.uint8)).save(tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(snippet, names)
    result = names["result"]
    assert result.mask.shape == result.probs.shape == (240, 320)  # type: ignore[attr-defined]
    assert [c.radius is not None for c in result.clicks] == [True, True]  # type: ignore[attr-defined]


@pytest.mark.parametrize("command", [c for c in COMMANDS if " fit " in c])
def test_every_fit_command_names_a_configuration_that_parses(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    args = [str(ROOT / a) if a.startswith("configs/") else a for a in shlex.split(command)[1:]]
    assert all(Path(a).is_file() for a in args if a.endswith(".yaml"))
    with pytest.raises(SystemExit) as left:
        main([*args, "--print_config"])
    assert left.value.code == 0


def small_grabcut(root: Path) -> Path:
    for name in ("data_GT", "boundary_GT"):
        (root / name).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(2):
        mask = np.zeros((48, 64), np.uint8)
        mask[10:35, 15 + 5 * i : 45] = 255
        image = np.where(mask[..., None] > 0, 200, 60).astype(np.uint8) + rng.integers(
            0, 20, (48, 64, 3), dtype=np.uint8
        )
        Image.fromarray(image).save(root / "data_GT" / f"{i}.jpg")
        Image.fromarray(mask).save(root / "boundary_GT" / f"{i}.bmp")
    return root


@pytest.mark.skipif(sys.platform == "win32", reason="paths in the README are POSIX")
def test_every_benchmark_command_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    small_grabcut(tmp_path / "data" / "GrabCut")
    net = DCTNet(DCTNetConfig(backbone="resnet10t", backbone_weights="none", decoder_width=8))
    weights = net.save_pretrained(tmp_path / "weights.safetensors")
    ran = 0
    for command in COMMANDS:
        args = shlex.split(command)[1:]
        if args[0] != "benchmark" or args[1] == "compare":
            continue
        args = [str(weights) if a.endswith(".ckpt") else a for a in args]
        assert main(args) == 0, capsys.readouterr().err
        assert "NoC@90" in capsys.readouterr().out
        ran += 1
    assert ran >= 2


def test_every_predict_command_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "DIR").mkdir()
    for path in ("photo.jpg", "DIR/a.jpg"):
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (240, 320, 3), dtype=np.uint8)).save(
            tmp_path / path
        )
    (tmp_path / "clicks.jsonl").write_text(
        '{"image": "a.jpg", "clicks": [{"row": 20, "col": 30, "radius": 9}]}\n'
    )
    commands = [shlex.split(command)[1:] for command in COMMANDS if " predict " in command]
    assert [main(args) for args in commands] == [0, 0]
    assert sorted(
        path.relative_to("predicted/masks").as_posix() for path in Path("predicted/masks").rglob("*.png")
    ) == [
        "a/1.png",
        "photo.png",
    ]
    assert Path("predicted/coco.json").is_file()


def test_the_table_of_extras_is_that_of_the_project_file() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    section = re.search(r"\[project.optional-dependencies\]\n(.*?)\n\[", text, re.DOTALL)
    assert section
    declared = set(re.findall(r"^(\w+) = \[", section[1], re.MULTILINE))
    assert declared == set(re.findall(r"`\[(\w+)\]`", GET_STARTED["install"]))


def test_every_path_in_the_readme_exists() -> None:
    for path in re.findall(r"(?:configs|docs|notebooks)/[\w./-]+\w", README):
        assert (ROOT / path).exists(), path
