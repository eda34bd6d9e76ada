# %% [markdown]
# # 5. The predictor in your project
#
# `Predictor` is all that an application needs: give it an image, then clicks, get masks. It needs no trainer, no GPU
# and no download; the weights come with the package.

# %%
import io
import time

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image
from skimage import data

from dct_seg import Click, Predictor

plt.rcParams.update(
    {"figure.dpi": 50, "savefig.dpi": 50, "axes.titlesize": 11, "figure.constrained_layout.use": True}
)


def show(axes, result, title):
    """The photograph, the mask in dark red, the clicks with the radii that were used."""
    axes.imshow(
        np.where(result.mask[..., None], photo * 0.45 + np.array([139, 0, 0]) * 0.55, photo).astype(np.uint8)
    )
    for click in result.clicks:
        color = "#00dc3c" if click.positive else "#ff2828"
        axes.plot(click.col, click.row, "o", color=color, markeredgecolor="white", markersize=7)
        axes.add_patch(plt.Circle((click.col, click.row), click.radius, color=color, fill=False, linewidth=2))
    axes.set(title=title, xlim=(0, photo.shape[1] - 1), ylim=(photo.shape[0] - 1, 0))
    axes.axis("off")


# %% [markdown]
# ## An image and a drag
#
# The image is an (H, W, 3) uint8 array in RGB, as Pillow gives it. (OpenCV reads BGR: turn it round with `image[...,
# ::-1]`.) A click is a row, a column and, if the person dragged, a radius in pixels. Here: the spoon on the saucer,
# then, from the same place with a longer drag, everything on the table.

# %%
photo = data.coffee()  # (400, 600, 3) uint8
predictor = Predictor.from_pretrained("dct-lite0", precision="float32")
predictor.set_image(photo)

fig, axes = plt.subplots(1, 2, figsize=(11, 4))
for axis, radius in zip(axes, (25, 110), strict=True):
    result = predictor.predict([Click(280, 365, radius=radius)])
    show(axis, result, f"a drag of {radius}: {result.mask.mean():.0%} of the picture")

# %% [markdown]
# ## Corrections, one click after the other
#
# `click` adds one to those before. `positive=False` says *this not*. A click without a radius is fine: the network
# guesses one, and `result.clicks` tells which. `undo` takes the last one back.

# %%
predictor.reset()
steps = [
    ("a drag on the cup", predictor.click(105, 290, radius=95)),
    ("not the saucer (no drag)", predictor.click(330, 300, positive=False)),
    ("not the spoon", predictor.click(280, 365, positive=False, radius=25)),
    ("undone", predictor.undo()),
]
fig, axes = plt.subplots(2, 2, figsize=(11, 7.6))
for axis, (title, result) in zip(axes.flat, steps, strict=True):
    show(axis, result, f"{title}: {result.mask.mean():.1%}")

# %% [markdown]
# `predict` is a pure function of the image and the ordered clicks, so undo is exact, and a list of clicks saved in a
# database gives the same mask tomorrow:

# %%
again = predictor.predict(steps[2][1].clicks)  # the three clicks of before, with the radii that were used
print("the same mask again:", np.array_equal(again.mask, steps[2][1].mask))

# %% [markdown]
# ## Probabilities and the threshold
#
# `result.probs` is a float map; `mask` is where it exceeds `threshold`, 0.5 unless the predictor was made with
# another. A higher one keeps only what is sure.

# %%
fig, axes = plt.subplots(1, 4, figsize=(15, 2.8))
axes[0].imshow(again.probs, cmap="gray", vmin=0, vmax=1)
axes[0].set_title("probs")
for axis, threshold in zip(axes[1:], (0.2, 0.5, 0.8), strict=True):
    axis.imshow(again.probs > threshold, cmap="gray")
    axis.set_title(f"above {threshold}: {(again.probs > threshold).mean():.1%}")
for axis in axes:
    axis.axis("off")

# %% [markdown]
# ## Save it
#
# A mask is a bool array: a PNG, a cut-out with transparency, whatever your project wants.

# %%
cutout = Image.fromarray(np.dstack([photo, again.mask.astype(np.uint8) * 255]))
buffer = io.BytesIO()
Image.fromarray(again.mask).save(buffer, format="PNG")
print(f"the mask as a 1-bit PNG: {len(buffer.getvalue())} bytes; the cut-out: {cutout.mode} {cutout.size}")
white = Image.new("RGBA", cutout.size, "white")
Image.alpha_composite(white, cutout).convert("RGB").reduce(2)

# %% [markdown]
# ## How long does it take?
#
# `set_image` is nearly free; a click is one forward pass of a small network. The first click sees the whole image,
# later ones the region of the object enlarged (`zoom_in=False` switches that off). A plain click costs a little more,
# because its radius must be guessed. Times are of the machine that made this page: one busy core, float32.


# %%
def seconds(action, repeats=3):
    """The fastest of a few calls."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        action()
        times.append(time.perf_counter() - start)
    return min(times)


def click_again(*clicks):
    """Forget, then play the clicks."""
    predictor.reset()
    predictor.predict(clicks)


drag, plain, second = Click(105, 290, radius=95), Click(105, 290), Click(330, 300, positive=False, radius=30)
print(f"set_image            {seconds(lambda: predictor.set_image(photo)) * 1e3:6.0f} ms")
first = seconds(lambda: click_again(drag))
print(f"first click, drag    {first * 1e3:6.0f} ms")
print(f"first click, plain   {seconds(lambda: click_again(plain)) * 1e3:6.0f} ms")
print(f"second click         {(seconds(lambda: click_again(drag, second)) - first) * 1e3:6.0f} ms")

# %% [markdown]
# ## When something is wrong
#
# Errors say what was given and what was wanted; catch `ValueError`.

# %%
for wrong in (
    lambda: predictor.set_image(photo / 255),
    lambda: predictor.predict([Click(900, 10)]),
    lambda: Click(1, 2, radius=-3),
):
    try:
        wrong()
    except ValueError as error:
        print("ValueError:", error)

# %% [markdown]
# `Predictor` also takes weights of your own (`Predictor.from_pretrained("runs/folder/checkpoints/last.ckpt")`), and
# any registered method, such as the graph cut: `Predictor(METHODS.get("graph_cut")())` with `from dct_seg.methods
# import METHODS`.
