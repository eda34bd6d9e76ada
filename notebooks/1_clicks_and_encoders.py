# %% [markdown]
# # 1. Clicks, drags and encoders
#
# A click tells a network *where* an object is. A drag also tells it *how large* the object is: press on the middle,
# drag to the nearest edge, let go. This notebook shows what becomes of both before the network sees them
# (section 2.1 of the DCT-Net paper; its Figs. 1 and 2 as pictures).
#
# Everything here runs on a CPU in well under a minute.

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


def show(axes, picture, title, clicks=(), **options):
    """A picture with its clicks: green on the object, red on what is not, the drag as a circle."""
    axes.imshow(picture, **options)
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
# The paper asks the person to click the middle of the largest wrong region and to drag to its nearest boundary. A
# simulated user does the same with a distance transform. Below, a drawn object, a prediction that missed part of it and
# leaked elsewhere, and the click that follows: on the wrong pixel that lies deepest, as long as it is deep.

# %%
shapes = open_dataset("Shapes", num_images=12, size=(120, 160), seed=3)
sample = max(shapes, key=lambda one: one.mask.sum())  # the largest of the drawn objects
mask = torch.from_numpy(sample.mask)[None]  # (B, H, W) bool
pred = mask.clone()
left, right = np.flatnonzero(sample.mask.any(0))[[0, -1]]
pred[:, :, (left + right) // 2 :] = False  # the right half is missed ...
pred[:, 4:16, 4:22] = True  # ... and a patch of the corner is taken for the object
found = next_click(pred, mask)
click = Click(*found.coords[0].tolist(), positive=bool(found.labels[0] == 1), radius=float(found.radii[0]))
print(click)

verdict = np.zeros((*sample.mask.shape, 3), np.uint8)
verdict[(mask & pred)[0]] = (120, 120, 120)
verdict[(mask & ~pred)[0]] = (60, 130, 230)
verdict[(~mask & pred)[0]] = (240, 160, 40)

fig, axes = plt.subplots(1, 3, figsize=(12, 3.4))
show(axes[0], sample.image, "image")
show(axes[1], verdict, "grey right, blue missed, orange false")
show(axes[2], sample.image, "click the middle, drag to the edge", [click])

# %% [markdown]
# A `Click` has a row, a column, a sign and perhaps a radius, all in pixels of the image. (Row first, as in an array.) A
# `ClickBatch` is what models read: the clicks of a batch of images in their order, padded to one length. Label -1 is
# padding; a radius that nobody gave is `nan`.

# %%
batch = ClickBatch.from_clicks([[Click(40, 50, radius=12.0), Click(90, 20, positive=False)], [Click(5, 6)]])
print("coords", tuple(batch.coords.shape), "labels", batch.labels.tolist(), "radii", batch.radii.tolist())

# %% [markdown]
# ## Four encoders
#
# A network cannot read coordinates; clicks are drawn as two maps, one of the positive clicks and one of the negative. How
# they are drawn is the *click encoder*. All four get the same three clicks here: a long drag, a short one, and a negative
# one of middle length. Green is the positive map, red the negative.

# %%
photo = data.chelsea()  # (300, 451, 3) uint8
clicks = [Click(150, 200, radius=110), Click(45, 105, radius=18), Click(120, 400, positive=False, radius=45)]
size = photo.shape[:2]
maps = {
    name: CLICK_ENCODERS.get(name)()(ClickBatch.from_clicks([clicks]), size)[0]
    for name in ("Disk", "Euclidean", "Gaussian", "SpatialDCT")
}


def coloured(pair):
    """(2, H, W) maps as a picture: positive green, negative red."""
    positive, negative = pair.numpy()
    return np.stack([negative, positive, np.zeros_like(positive)], -1)


fig, axes = plt.subplots(1, 5, figsize=(17, 2.9))
show(axes[0], photo, "three clicks with drags", clicks)
for axis, (name, pair) in zip(axes[1:], maps.items(), strict=True):
    show(axis, coloured(pair), name)

# %% [markdown]
# - `Disk` and `Gaussian` draw each click alike: a long drag and a short one leave the same mark.
# - `Euclidean`, the paper's baseline, holds the distance to the nearest click: 0 at a click and bright far away. So the
#   positive clicks sit where green is missing. It does not hear the drags either.
# - `SpatialDCT` (eq. 2) draws each click as wide as its drag: the map says *about this much belongs to me*.
#
# ## What a drag does to the map
#
# The same click, dragged further and further. Only `SpatialDCT` listens.

# %%
radii = (12, 28, 60, 110)
fig, axes = plt.subplots(2, 4, figsize=(14, 5))
for column, radius in enumerate(radii):
    one = [Click(117, 172, radius=radius)]
    for row, name in enumerate(("Gaussian", "SpatialDCT")):
        drawn = CLICK_ENCODERS.get(name)()(ClickBatch.from_clicks([one]), size)[0, 0]
        show(axes[row, column], drawn, f"{name}, drag of {radius}", one, cmap="gray", vmin=0, vmax=1)

# %% [markdown]
# Along one row of the map, with the drag's end marked. The paper does not say how the radius becomes the width of the
# Gaussian; here `sigma = sigma_scale * radius` and the default scale of 0.5 puts the drag's end at two sigmas, where the
# map has fallen to exp(-2) = 0.135.

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
# ## Two clicks: why the maximum
#
# Eqs. 1 and 2 take the *minimum* over the clicks. For distances that is right: the nearest click counts. A Gaussian is 1
# at its own click and about 0 at any other, so its minimum over two distant clicks is 0 everywhere, and both clicks are
# gone. This package takes the maximum; `union="min"` restores the printed formula.

# %%
two = [Click(150, 100, radius=50), Click(150, 350, radius=50)]
fig, axes = plt.subplots(1, 2, figsize=(9, 3.2))
for axis, union in zip(axes, ("min", "max"), strict=True):
    drawn = CLICK_ENCODERS.get("SpatialDCT")(union=union)(ClickBatch.from_clicks([two]), size)[0, 0]
    print(f"{union}: {drawn[150, 100]:.6f} at the first click, {drawn[150, 350]:.6f} at the second")
    show(axis, drawn, f"union: {union}", two, cmap="gray", vmin=0, vmax=1)

# %% [markdown]
# ## The whole way (the paper's Fig. 1)
#
# Image and clicks go in, the maps join the image, the network answers. Here is one click on one pixel, in the cat's eye,
# with four drags. Is it the eye that is meant, or the cat? The place alone cannot say. The drag can.

# %%
predictor = Predictor.from_pretrained("dct-lite0", precision="float32")
predictor.set_image(photo)
fig, axes = plt.subplots(2, 4, figsize=(14, 5.2))
for column, radius in enumerate(radii):
    one = [Click(117, 172, radius=radius)]
    result = predictor.predict(one)
    shown = np.where(result.mask[..., None], photo * 0.45 + np.array([139, 0, 0]) * 0.55, photo).astype(
        np.uint8
    )
    show(
        axes[0, column],
        coloured(encoder(ClickBatch.from_clicks([one]), size)[0]),
        f"map of a drag of {radius}",
    )
    show(axes[1, column], shown, f"mask: {result.mask.mean():.0%} of the picture", one)

# %% [markdown]
# And without a drag? Then a small head of the network, the Auto-Drag-Head, guesses the radius from the image, so that the
# map is never without one:

# %%
(used,) = predictor.predict([Click(117, 172)]).clicks
print(f"a plain click at (117, 172) was given the radius {used.radius:.0f}")

# %% [markdown]
# Next: [2. Feature-DCT by hand](2_feature_dct.ipynb), the second half of the idea. An encoder of your own takes a class and
# two lines of `pyproject.toml`: see `CONTRIBUTING.md`.
