"""Fail unless the installed package predicts on an image, measures and trains.

Run by check_wheel.sh outside the source tree.
"""

import contextlib
import io
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
from matplotlib.cbook import get_sample_data
from PIL import Image

import dct_seg
from dct_seg import Click, Predictor
from dct_seg.cli import main

TINY = """\
model:
  network: {backbone: resnet18, backbone_weights: none, decoder_stride: 8, decoder_width: 16}
  train_clicks: [2, 2]
  val_clicks: 2
data:
  dataset: Shapes
  options: {num_images: 4, size: [64, 80]}
  val_dataset: Shapes
  val_options: {split: val, num_images: 2, size: [64, 80]}
  batch_size: 2
  crop_size: 64
  num_workers: 0
trainer: {max_epochs: 1, accelerator: cpu, precision: 32-true}
"""

home = Path(dct_seg.__file__).parent
assert home.is_relative_to(sys.prefix), f"this is {home}, not the installed wheel"
names = ("dct-seg", "torch", "torchvision", "lightning", "timm", "numpy", "opencv-python-headless", "pillow")
print(", ".join(f"{name} {version(name)}" for name in names))

with get_sample_data("grace_hopper.jpg") as file:  # a portrait, 600 x 512, that comes with matplotlib
    portrait = np.asarray(Image.open(file).convert("RGB"))
predictor = Predictor.from_pretrained(precision="float32")
predictor.set_image(portrait)
result = predictor.predict([Click(450, 250, radius=110.0)])
result = predictor.click(40, 60, positive=False)
share = result.mask.mean()
print(
    f"portrait: {share:.0%} of {portrait.shape[0]} x {portrait.shape[1]} pixels, radii "
    f"{[round(c.radius) for c in result.clicks]}"
)
assert result.mask[450, 250], "the clicked object is not in the mask"
assert not result.mask[40, 60], "the wall is in the mask"
assert 0.2 < share < 0.95, f"the mask covers {share:.0%} of the portrait"
assert predictor.undo().clicks == result.clicks[:1]


def program(*args: str) -> str:
    """Output of the installed program ``dct-seg``."""
    done = subprocess.run(["dct-seg", *args], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"dct-seg {' '.join(args)}\n{done.stdout}{done.stderr}"
    return done.stdout


def run(*args: str) -> str:
    """Output of a command in this process, because each start takes seconds."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        code = main(list(args))
    assert code == 0, f"dct-seg {' '.join(args)}\n{said.getvalue()}"
    return said.getvalue()


assert dct_seg.__version__ in program("--version")
assert "SpatialDCT" in run("list")
assert "ablation/full" in run("list", "configs")
short = ["--trainer.max_epochs=1", "--trainer.limit_train_batches=1", "--trainer.limit_val_batches=1"]
for start, config in ((program, "quickstart"), (run, "configs/quickstart.yaml")):
    assert "drag, after" in start("fit", "--config", config, *short, "--model.val_clicks=1")
assert "12 trials" in run("sweep", "configs/sweeps/table1.yaml", "--dry-run")
assert "NoC@90" in run(
    "benchmark",
    "--method",
    "dctnet,disc",
    "--data",
    "Shapes",
    "--prompt",
    "drag",
    "--limit",
    "2",
    "--max-clicks",
    "3",
)
Path("tiny.yaml").write_text(TINY)
assert "mIoU@1" in run("fit", "--config", "tiny.yaml")
assert "NoC@85" in run("validate", "--config", "tiny.yaml", "--ckpt_path", str(next(Path().rglob("*.ckpt"))))
print("predicts, measures, trains")
