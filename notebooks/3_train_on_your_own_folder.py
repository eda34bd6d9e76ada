# %% [markdown]
# # 3. Train on your own folder
#
# Put your images and masks into one folder, check it, train, and use the result. The package draws the
# example folder, so nothing is downloaded; replace it with yours.
#
# The network and the images are tiny and the training is short, so it finishes within two minutes on one slow core. The last cell
# shows the commands of a real run.

# %%
import shlex
import subprocess
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

from dct_seg import Click, Predictor
from dct_seg.data.datasets import open_dataset

plt.rcParams.update({"figure.dpi": 45, "savefig.dpi": 45, "figure.constrained_layout.use": True})


def dct_seg(command):
    """Print the terminal output of `dct-seg ...`, without logs and progress bars."""
    print(f"$ dct-seg {command}")
    done = subprocess.run(
        [sys.executable, "-m", "dct_seg.cli", *shlex.split(command)],
        capture_output=True,
        text=True,
        check=False,
    )
    print(done.stdout.strip() or done.stderr.strip())


# %% [markdown]
# ## The folder
#
# `images/NAME.jpg` (or .png) and `masks/NAME.png`: 0 is background, 1 to 254 are objects, 255 is ignored.
# A mask with only 0 and 255 is one object.

# %%
folder = Path("shapes")
drawn = open_dataset("Shapes", num_images=60, size=(96, 120), max_shapes=3)
for part in ("images", "masks"):
    (folder / part).mkdir(parents=True)
for number in range(drawn.num_images):
    decoded = drawn.read_labeled_image(number)
    Image.fromarray(decoded.image).save(folder / "images" / f"{number:03d}.png")
    Image.fromarray(decoded.labels).save(folder / "masks" / f"{number:03d}.png")

fig, axes = plt.subplots(2, 5, figsize=(12, 4))
for number, (above, below) in enumerate(axes.T):
    above.imshow(drawn.read_labeled_image(number).image)
    below.imshow(drawn.read_labeled_image(number).labels, cmap="viridis", interpolation="nearest")
    above.axis("off"), below.axis("off")
plt.show()

# %% [markdown]
# ## Check it
#
# Here are four common problems of real folders, made on purpose: an image without a mask, a mask rotated by ninety degrees, a
# truncated file, and a duplicate image.

# %%
spare = drawn.read_labeled_image(0)
Image.fromarray(spare.image).save(folder / "images" / "no_mask.png")
Image.fromarray(spare.image).save(folder / "images" / "turned.png")
Image.fromarray(spare.labels.T.copy()).save(folder / "masks" / "turned.png")
(folder / "images" / "broken.png").write_bytes(b"half an image")
Image.fromarray(spare.labels).save(folder / "masks" / "broken.png")
dct_seg("data check shapes")

# %% [markdown]
# Each finding names the file and the problem. Once the files are repaired or removed, the check passes.

# %%
for name in ("no_mask", "turned", "broken"):
    for part in ("images", "masks"):
        (folder / part / f"{name}.png").unlink(missing_ok=True)
dct_seg("data check shapes")

# %% [markdown]
# ## Train
#
# A run is described by a YAML file. This one is a reduced `configs/folder.yaml`: a small backbone with random weights
# instead of ImageNet's, few and small samples, two clicks per sample. A hash of the names chooses a fifth of the images to hold
# out, so this fifth is the same on every machine and in every run.

# %%
Path("tiny.yaml").write_text("""\
model:
  network:
    backbone: resnet10t
    backbone_weights: none
    frozen_batch_norm: false
    normalize_features: true
    previous_mask: true
    decoder_stride: 4
    decoder_width: 16
  lr: 2.0e-3
  optimizer: adamw
  schedule: cosine
  losses: {bce: 1.0, dice: 1.0}
  train_clicks: [2, 2]
  val_prompts: [drag, click]
  val_clicks: 5
data:
  dataset: Folder
  root: shapes
  batch_size: 8
  crop_size: 64
  min_object_size: 60
  samples_per_epoch: 160
  max_val_samples: 16
  num_workers: 0
  drag_share: 0.75
trainer:
  max_epochs: 5
  precision: 32-true
  check_val_every_n_epoch: 1000
  enable_progress_bar: false
  enable_model_summary: false
  default_root_dir: runs/tiny
  callbacks:
    - class_path: lightning.pytorch.callbacks.ModelCheckpoint
      init_args: {dirpath: runs/tiny/checkpoints, save_last: true}
""")
dct_seg("fit --config tiny.yaml --report before_and_after")

# %% [markdown]
# - *NoC@85* is the mean number of clicks until the mask has an IoU of 85 %. A sample that never reaches it counts with
#   the maximum number of clicks, here five; *NoF* is the number of such samples.
# - *mIoU@k* is the mean IoU after k clicks, *AuC* its mean over all k.
# - In *drag* rows the network gets the radius of each click; in *click* rows it gets none.
#
# A minute of training does not make a good model. But the mIoU after training is far above the one before, and it
# increases from click to click.
#
# The run also draws the first clicks of some held-out samples, green on the object and red on the background:

# %%
Image.open("runs/tiny/interactions.png").reduce(2)

# %% [markdown]
# ## Use it
#
# `Predictor` loads the checkpoint directly.

# %%
predictor = Predictor.from_pretrained("runs/tiny/checkpoints/last.ckpt", precision="float32")
fresh = open_dataset("Shapes", split="never trained on", num_images=8, size=(96, 120), max_shapes=3)
sample = max(fresh, key=lambda one: one.mask.sum())
rows, cols = np.nonzero(sample.mask)
predictor.set_image(sample.image)
result = predictor.predict([Click(rows.mean(), cols.mean(), radius=18)])
overlap = (result.mask & sample.mask).sum() / (result.mask | sample.mask).sum()

fig, axes = plt.subplots(1, 3, figsize=(11, 3))
for axis, pixels, title in zip(
    axes,
    (sample.image, sample.mask, result.mask),
    ("a new image", "the object", f"one drag: IoU {overlap:.2f}"),
    strict=True,
):
    axis.imshow(pixels, cmap="gray")
    axis.set_title(title)
    axis.axis("off")
plt.show()

# %% [markdown]
# ## For a real run
#
# ```console
# pip install "dct-seg[lite]"
# dct-seg data check DIR
# dct-seg fit --config configs/folder.yaml --data.root DIR
# dct-seg fit --config configs/folder.yaml --data.root DIR --ckpt_path last    # resume after a stop
# dct-seg benchmark --weights runs/folder/checkpoints/last.ckpt --data mine=DIR --prompt drag --held-out 0.2
# ```
#
# Any key can also be given as an option (`--model.lr 5e-4`), and `--print_config` prints all keys. Each `--config`
# overrides the one before.
#
# Next: [4. Read a benchmark](4_compare_two_models.ipynb).
