# %% [markdown]
# # 1. Clicks, drags and encoders
#
# A click tells a network *where* an object is. A drag also tells it *how large* the object is: press on the middle,
# drag to the nearest edge, release. This notebook shows how both are encoded for the network
# (section 2.1 of the DCT-Net paper, with its Figs. 1 and 2).
#
# Everything runs on a CPU in well under a minute.

# %%
import matplotlib.pyplot as plt
import numpy as np
import torch
from skimage import data

from dct_seg import Click, ClickBatch, Predictor, next_click
from dct_seg.click_encoders import CLICK_ENCODERS
from dct_seg.data.datasets import open_dataset

plt.rcParams.update(
    {"figure.dpi": 50, "savefig.dpi": 50, "axes.titlesize": 11, "figure.constrained_layout.use": True}
)


def show(axes, image, title, clicks=(), **options):
    """Draw an image with its clicks: positive green, negative red, the drag as a circle."""
    axes.imshow(image, **options)
    for click in clicks:
        color = "#00dc3c" if click.positive else "#ff2828"
        axes.plot(click.col, click.row, "o", color=color, markeredgecolor="white", markersize=7)
        if click.radius:
            axes.add_patch(
                plt.Circle((click.col, click.row), click.radius, color=color, fill=False, linewidth=2)
            )
    axes.set_title(title)
    axes.axis("off")


# %% [markdown]
# ## A click with its drag (the paper's Fig. 2)
#
# In the paper, the user clicks the middle of the largest wrong region and drags to its nearest boundary. A
# simulated user does the same with a distance transform. Below are a drawn object, a prediction that misses a part of it
# and leaks elsewhere, and the next click. It lies on the wrong pixel farthest from the boundary; this distance is its radius.

# %%
shapes = open_dataset("Shapes", num_images=12, size=(120, 160), seed=3)
sample = max(shapes, key=lambda one: one.mask.sum())  # the largest of the drawn objects
mask = torch.from_numpy(sample.mask)[None]  # (B, H, W) bool
pred = mask.clone()
left, right = np.flatnonzero(sample.mask.any(0))[[0, -1]]
pred[:, :, (left + right) // 2 :] = False  # the right half is missed ...
pred[:, 4:16, 4:22] = True  # ... and a patch of the corner is mistaken for the object
found = next_click(pred, mask)
click = Click(*found.coords[0].tolist(), positive=bool(found.labels[0] == 1), radius=float(found.radii[0]))
print(click)

verdict = np.zeros((*sample.mask.shape, 3), np.uint8)
verdict[(mask & pred)[0]] = (120, 120, 120)
verdict[(mask & ~pred)[0]] = (60, 130, 230)
verdict[(~mask & pred)[0]] = (240, 160, 40)

fig, axes = plt.subplots(1, 3, figsize=(12, 3.4))
show(axes[0], sample.image, "image")
show(axes[1], verdict, "gray right, blue missed, orange false")
show(axes[2], sample.image, "click the middle, drag to the edge", [click])

# %% [markdown]
# A `Click` has a row, a column, a sign and optionally a radius, in pixels of the image (row first, as in an array). A
# `ClickBatch` is the input of models: the ordered clicks of a batch of images, padded to one length. Label -1 is
# padding; a missing radius is `nan`.

# %%
batch = ClickBatch.from_clicks([[Click(40, 50, radius=12.0), Click(90, 20, positive=False)], [Click(5, 6)]])
print("coords", tuple(batch.coords.shape), "labels", batch.labels.tolist(), "radii", batch.radii.tolist())

# %% [markdown]
# ## Four encoders
#
# A *click encoder* draws the clicks for the network as two maps, one of the positive clicks and one of the
# negative clicks. Here, four encoders get the same three clicks: a long drag, a short one, and a negative one of medium length.
# Green is the positive map, red the negative one.

# %%
image = data.chelsea()  # (300, 451, 3) uint8
clicks = [Click(150, 200, radius=110), Click(45, 105, radius=18), Click(120, 400, positive=False, radius=45)]
size = image.shape[:2]
maps = {
    name: CLICK_ENCODERS.get(name)()(ClickBatch.from_clicks([clicks]), size)[0]
    for name in ("Disk", "Euclidean", "Gaussian", "SpatialDCT")
}


def colored(pair):
    """Color image of (2, H, W) maps: positive green, negative red."""
    positive, negative = pair.numpy()
    return np.stack([negative, positive, np.zeros_like(positive)], -1)


fig, axes = plt.subplots(1, 5, figsize=(17, 2.9))
show(axes[0], image, "three clicks with drags", clicks)
for axis, (name, pair) in zip(axes[1:], maps.items(), strict=True):
    show(axis, colored(pair), name)

# %% [markdown]
# - `Disk` and `Gaussian` ignore the drag: a long and a short one leave the same mark.
# - `Euclidean`, the paper's baseline, contains the distance to the nearest click: 0 at a click and bright far away, so
#   the positive clicks are the dark spots in the green map. It ignores the drags, too.
# - `SpatialDCT` (eq. 2) draws each click as wide as its drag, which shows the approximate size of the object.
#
# ## What a drag does to the map
#
# Below is the same click with longer and longer drags. Only `SpatialDCT` depends on the length.

# %%
radii = (12, 28, 60, 110)
fig, axes = plt.subplots(2, 4, figsize=(14, 5))
for column, radius in enumerate(radii):
    one = [Click(117, 172, radius=radius)]
    for row, name in enumerate(("Gaussian", "SpatialDCT")):
        drawn = CLICK_ENCODERS.get(name)()(ClickBatch.from_clicks([one]), size)[0, 0]
        show(axes[row, column], drawn, f"{name}, drag of {radius}", one, cmap="gray", vmin=0, vmax=1)

# %% [markdown]
# Below is one row of the map, with the end of the drag marked. The paper does not specify the Gaussian's width for a radius. Here,
# `sigma = sigma_scale * radius`: with the default scale of 0.5, the drag ends at two sigmas, where the map has
# fallen to exp(-2) = 0.135.

# %%
fig, axis = plt.subplots(figsize=(9, 2.8))
encoder = CLICK_ENCODERS.get("SpatialDCT")()
for radius, color in zip((30, 60, 110), ("C0", "C1", "C2"), strict=True):
    profile = encoder(ClickBatch.from_clicks([[Click(0, 190, radius=radius)]]), (1, 451))[0, 0, 0]
    axis.plot(profile, color=color, label=f"radius {radius}: {profile[190 + radius]:.3f} at its end")
    axis.plot(190 + radius, profile[190 + radius], "o", color=color)
axis.set(xlabel="column", ylabel="positive map", xlim=(0, 450), ylim=(0, 1.05))
axis.legend()
plt.show()

# %% [markdown]
# ## Maximum instead of minimum for two clicks
#
# Eqs. 1 and 2 use the *minimum* over the clicks. This is right for distances: the nearest click counts. But a Gaussian is
# 1 at its own click and about 0 at any other, so the minimum over two distant clicks is 0 everywhere, and both clicks
# vanish. This package uses the maximum; `union="min"` restores the printed formula.

# %%
two = [Click(150, 100, radius=50), Click(150, 350, radius=50)]
fig, axes = plt.subplots(1, 2, figsize=(9, 3.2))
for axis, union in zip(axes, ("min", "max"), strict=True):
    drawn = CLICK_ENCODERS.get("SpatialDCT")(union=union)(ClickBatch.from_clicks([two]), size)[0, 0]
    print(f"{union}: {drawn[150, 100]:.6f} at the first click, {drawn[150, 350]:.6f} at the second")
    show(axis, drawn, f"union: {union}", two, cmap="gray", vmin=0, vmax=1)

# %% [markdown]
# ## From click to mask (the paper's Fig. 1)
#
# Image and click maps enter the network, which predicts a mask. Below is one click on the cat's eye with four
# drags. The position alone does not tell whether the eye or the cat is meant; the drag does.

# %%
predictor = Predictor.from_pretrained("dct-lite0", precision="float32")
predictor.set_image(image)
fig, axes = plt.subplots(2, 4, figsize=(14, 5.2))
for column, radius in enumerate(radii):
    one = [Click(117, 172, radius=radius)]
    result = predictor.predict(one)
    shown = np.where(result.mask[..., None], image * 0.45 + np.array([139, 0, 0]) * 0.55, image).astype(
        np.uint8
    )
    show(
        axes[0, column],
        colored(encoder(ClickBatch.from_clicks([one]), size)[0]),
        f"map of a drag of {radius}",
    )
    show(axes[1, column], shown, f"mask: {result.mask.mean():.0%} of the image", one)

# %% [markdown]
# If the first click has no drag, a small head of the network, the Auto-Drag-Head, predicts its radius from the image.
# A later click corrects the mask, which gives its radius. Every click therefore has a radius:

# %%
(used,) = predictor.predict([Click(117, 172)]).clicks
print(f"a plain click at (117, 172) was given the radius {used.radius:.0f}")

# %% [markdown]
# Next: [2. Feature-DCT by hand](2_feature_dct.ipynb), the second half of the idea. Your own encoder needs a class and
# two lines of `pyproject.toml`: see `CONTRIBUTING.md`.
