"""Tiny datasets, networks and results for the documented commands, each in its true layout."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image
from scipy.io import savemat

from dct_seg import configurations
from dct_seg.cli import main

TINY_RUN = {
    "trainer.max_epochs": 1,
    "trainer.limit_train_batches": 1,
    "trainer.limit_val_batches": 1,
    "trainer.accelerator": "cpu",
    "trainer.precision": "32-true",
    "trainer.enable_progress_bar": "false",
    "trainer.enable_model_summary": "false",
    "model.val_clicks": 1,
    "data.crop_size": 64,
    "data.batch_size": 2,
    "data.num_workers": 0,
    "interactions.num_samples": 0,
    "interactions.num_worst": 0,
}
TINY_NETWORK = {
    "model.network.backbone": "test_resnet",
    "model.network.backbone_weights": "none",
    "model.network.decoder_width": 8,
}

SIZE = (64, 80)
Pixels = np.ndarray[Any, np.dtype[np.uint8]]


def an_image(path: Path, seed: int, size: tuple[int, int] = SIZE) -> None:
    """Write noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (*size, 3), dtype=np.uint8)).save(path)


def two_objects() -> Pixels:
    """Labels 0, 1 and 2."""
    labels = np.zeros(SIZE, np.uint8)
    labels[8:30, 10:40] = 1
    labels[36:60, 30:70] = 2
    return labels


def tiny_sbd(root: Path) -> Path:
    """SBD as its archive unpacks: img/, inst/ with a .mat for each image, a text file for each split."""
    splits = {"train": [f"2008_00000{n}" for n in range(4)], "val": ["2009_000001", "2009_000002"]}
    (root / "inst").mkdir(parents=True)
    for split, names in splits.items():
        (root / f"{split}.txt").write_text("\n".join(names) + "\n")
        for number, name in enumerate(names):
            an_image(root / "img" / f"{name}.jpg", number)
            content = {
                "Segmentation": two_objects(),
                "Boundaries": np.zeros(2),
                "Categories": np.array([[5], [9]]),
            }
            savemat(root / "inst" / f"{name}.mat", {"GTinst": content})
    return root


def tiny_folder(root: Path) -> Path:
    """images/ and masks/, five of each; the last is in the held-out fifth."""
    for number in (0, 1, 2, 3, 8):
        an_image(root / "images" / f"{number}.jpg", number)
        (root / "masks").mkdir(exist_ok=True)
        Image.fromarray(two_objects()).save(root / "masks" / f"{number}.png")
    return root


def tiny_grabcut(root: Path) -> Path:
    """data_GT/ and boundary_GT/, two images with a visible object."""
    for name in ("data_GT", "boundary_GT"):
        (root / name).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(2):
        mask = np.zeros((48, 64), np.uint8)
        mask[10:35, 15 + 5 * i : 45] = 255
        image = np.where(mask[..., None] > 0, 200, 60).astype(np.uint8)
        image = image + rng.integers(0, 20, (48, 64, 3), dtype=np.uint8)
        Image.fromarray(image).save(root / "data_GT" / f"{i}.jpg")
        Image.fromarray(mask).save(root / "boundary_GT" / f"{i}.bmp")
    return root


def side_by_side(root: Path) -> None:
    """Files of the dataset of CONTRIBUTING: the image on the left, the mask on the right."""
    for number in range(5):
        mask = np.repeat((two_objects() > 0).astype(np.uint8)[..., None] * 255, 3, axis=2)
        an_image(root / f"{number}.png", number)
        image = np.asarray(Image.open(root / f"{number}.png"))
        Image.fromarray(np.concatenate([image, mask], axis=1)).save(root / f"{number}.png")


def unions(files: Iterable[Path]) -> list[str]:
    """Folders that configurations mix (``data.union``)."""
    found: dict[str, Any] = {}
    for path in files:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        found |= (content.get("data") or {}).get("union") or {}
    return list(found)


def tiny_folders(root: Path) -> None:
    """Images and clicks."""
    tiny_sbd(root / "SBD")
    tiny_grabcut(root / "data" / "GrabCut")
    for name in ("DIR", "DIR_A", "DIR_B", "A", "B", "nuclei/train", "nuclei/test"):
        tiny_folder(root / name)
    shutil.copytree(root / "DIR" / "masks", root / "PATH")
    for name in {"ecssd", *unions(sorted(configurations.folder().rglob("*.yaml")))}:
        tiny_folder(root / "DATA" / name)
    for name in ("image.jpg", "a.png"):
        an_image(root / name, 0, (480, 640))
    pages = [Image.fromarray(np.full((480, 640), value, np.uint8)) for value in (30, 60, 90)]
    pages[0].save(root / "stack.tif", save_all=True, append_images=pages[1:])
    clicks = [{"row": 20, "col": 30, "radius": 9}]
    (root / "clicks.jsonl").write_text(json.dumps({"image": "images/0.jpg", "clicks": clicks}) + "\n")
    (root / "one.json").write_text(json.dumps({"image": "a.png", "clicks": clicks}) + "\n")


def everything(root: Path) -> None:
    """All files and folders that the documents expect from the reader."""
    tiny_folders(root)
    checkpoints(root)
    onnx_pair(root)
    result_folders(root)


def tiny_run(*, with_network: bool = True) -> list[str]:
    """Options that make ``dct-seg fit`` take a second.

    Args:
        with_network: Also make the network tiny. Weights named in the configuration keep theirs.
    """
    options = TINY_RUN | TINY_NETWORK if with_network else TINY_RUN
    return [f"--{key}={value}" for key, value in options.items()]


def checkpoints(root: Path) -> None:
    """Checkpoints of a tiny training run, under the names that the documents use."""
    with contextlib.redirect_stdout(io.StringIO()):
        words = ["fit", "--config", "quickstart", *tiny_run(), f"--trainer.default_root_dir={root / 'made'}"]
        assert main(words) == 0
    (made,) = root.rglob("last.ckpt")
    for name in ("a", "b"):
        shutil.copy(made, root / f"{name}.ckpt")


def result_folders(root: Path) -> None:
    """Two finished benchmarks, under the names that the documents use."""
    words = ["--method=disc", "--data", f"GrabCut={root}/data/GrabCut", "--prompt=drag", "--limit=2"]
    with contextlib.redirect_stdout(io.StringIO()):
        assert main(["benchmark", *words, "--max-clicks=2", f"--out={root / 'runs' / 'a'}"]) == 0
    for name in ("runs/b", "OLD", "NEW"):
        shutil.copytree(root / "runs" / "a", root / name)


def onnx_pair(root: Path) -> None:
    """Write a trivial encoder and decoder with the inputs and outputs of SAM's."""
    from onnx import TensorProto, helper, numpy_helper, save

    def model(
        path: Path, nodes: list[Any], inputs: list[Any], outputs: list[Any], constants: list[Any]
    ) -> None:
        graph = helper.make_graph(nodes, "tiny", inputs, outputs, constants)
        save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)

    def tensor(name: str, shape: list[Any], kind: int = TensorProto.FLOAT) -> Any:
        return helper.make_tensor_value_info(name, kind, shape)

    model(
        root / "encoder.onnx",
        [helper.make_node("ReduceMean", ["x"], ["out"], axes=[1], keepdims=1)],
        [tensor("x", [1, 3, 1024, 1024])],
        [tensor("out", [1, 1, 1024, 1024])],
        [],
    )
    model(
        root / "sam.onnx",
        [
            helper.make_node("Cast", ["orig_im_size"], ["whole"], to=TensorProto.INT64),
            helper.make_node("Concat", ["ones", "whole"], ["shape"], axis=0),
            helper.make_node("ConstantOfShape", ["shape"], ["masks"]),
            helper.make_node("Identity", ["mask_input"], ["low_res_masks"]),
        ],
        [
            tensor("image_embeddings", [1, 1, 1024, 1024]),
            tensor("point_coords", [1, "n", 2]),
            tensor("point_labels", [1, "n"]),
            tensor("mask_input", [1, 1, 256, 256]),
            tensor("has_mask_input", [1]),
            tensor("orig_im_size", [2]),
        ],
        [tensor("masks", [1, 1, "h", "w"]), tensor("low_res_masks", [1, 1, 256, 256])],
        [numpy_helper.from_array(np.ones(2, np.int64), "ones")],
    )


def example_packages(folder: Path, tests: Path) -> None:
    """Make the packages of CONTRIBUTING importable with their entry points, as pip installs them."""
    import tomllib

    for path in sorted(tests.glob("example_*/pyproject.toml")):
        project = tomllib.loads(path.read_text(encoding="utf-8"))["project"]
        info = folder / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
        )
        lines = [
            f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in names.items())
            for group, names in project["entry-points"].items()
        ]
        (info / "entry_points.txt").write_text("\n".join(lines))
        sys.path.append(str(path.parent))
    sys.path.append(str(folder))
    os.environ["PYTHONPATH"] = os.pathsep.join([os.environ.get("PYTHONPATH", ""), str(folder)])
