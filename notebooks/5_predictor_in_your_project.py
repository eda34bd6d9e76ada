# %% [markdown]
# # 5. The predictor in your project
#
# An application needs only `Predictor`, which takes an image, then clicks, and returns masks. It needs no trainer, no GPU
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
    """Draw the image, the mask in dark red, and the clicks with the radii that were used."""
    axes.imshow(
        np.where(result.mask[..., None], image * 0.45 + np.array([139, 0, 0]) * 0.55, image).astype(np.uint8)
    )
    for click in result.clicks:
        color = "#00dc3c" if click.positive else "#ff2828"
        axes.plot(click.col, click.row, "o", color=color, markeredgecolor="white", markersize=7)
        axes.add_patch(plt.Circle((click.col, click.row), click.radius, color=color, fill=False, linewidth=2))
    axes.set(title=title, xlim=(0, image.shape[1] - 1), ylim=(image.shape[0] - 1, 0))
    axes.axis("off")


# %% [markdown]
# ## An image and a drag
#
# The image is an (H, W, 3) uint8 array in RGB, as from Pillow. (OpenCV reads BGR: reverse it with `image[...,
# ::-1]`.) A click is a row, a column and, if the user dragged, a radius in pixels. The first drag below selects the spoon on the
# saucer; a longer drag from the same position selects everything on the table.

# %%
image = data.coffee()  # (400, 600, 3) uint8
predictor = Predictor.from_pretrained("dct-lite0", precision="float32")
predictor.set_image(image)

fig, axes = plt.subplots(1, 2, figsize=(11, 4))
for axis, radius in zip(axes, (25, 110), strict=True):
    result = predictor.predict([Click(280, 365, radius=radius)])
    show(axis, result, f"a drag of {radius}: {result.mask.mean():.0%} of the image")

# %% [markdown]
# ## Corrections, one click after the other
#
# `click` adds a click; `positive=False` marks background. A click may have no radius: a correction then
# gets one from the mask, and a first click from the network. `result.clicks` contains it. `undo` removes the last click.

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
# `predict` is a pure function of the image and the ordered clicks, so undo is exact, and stored clicks
# always give the same mask:

# %%
again = predictor.predict(steps[2][1].clicks)  # the same three clicks, with the radii that were used
print("the same mask again:", np.array_equal(again.mask, steps[2][1].mask))

# %% [markdown]
# ## Probabilities and the threshold
#
# `result.probs` is a float map; `mask` contains the pixels above the predictor's `threshold`, by default 0.5. A higher
# threshold keeps only confident pixels.

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
# A mask is a bool array, which can be saved as a PNG or as a cut-out with transparency.

# %%
cutout = Image.fromarray(np.dstack([image, again.mask.astype(np.uint8) * 255]))
buffer = io.BytesIO()
Image.fromarray(again.mask).save(buffer, format="PNG")
print(f"the mask as a 1-bit PNG: {len(buffer.getvalue())} bytes; the cut-out: {cutout.mode} {cutout.size}")
white = Image.new("RGBA", cutout.size, "white")
Image.alpha_composite(white, cutout).convert("RGB").reduce(2)

# %% [markdown]
# ## Speed
#
# `set_image` takes almost no time; a click is one forward pass of a small network. The first click sees the whole image,
# or the surroundings of a small drag, and a new object gets a second pass. Later clicks see the enlarged region of the
# object (`zoom_in=False` disables this). A first click without a drag takes longer, because its radius is predicted first. These times were measured on one busy core in float32.


# %%
def seconds(action, repeats=3):
    """Measure the fastest of a few calls."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        action()
        times.append(time.perf_counter() - start)
    return min(times)


def click_again(*clicks):
    """Reset the predictor, then repeat the clicks."""
    predictor.reset()
    predictor.predict(clicks)


drag, plain, second = Click(105, 290, radius=95), Click(105, 290), Click(330, 300, positive=False, radius=30)
print(f"set_image            {seconds(lambda: predictor.set_image(image)) * 1e3:6.0f} ms")
first = seconds(lambda: click_again(drag))
print(f"first click, drag    {first * 1e3:6.0f} ms")
print(f"first click, plain   {seconds(lambda: click_again(plain)) * 1e3:6.0f} ms")
print(f"second click         {(seconds(lambda: click_again(drag, second)) - first) * 1e3:6.0f} ms")

# %% [markdown]
# ## Errors
#
# An error names the given value and the expected one; catch `ValueError`.

# %%
for wrong in (
    lambda: predictor.set_image(image / 255),
    lambda: predictor.predict([Click(900, 10)]),
    lambda: Click(1, 2, radius=-3),
):
    try:
        wrong()
    except ValueError as error:
        print("ValueError:", error)

# %% [markdown]
# `Predictor` also accepts your own weights (`Predictor.from_pretrained("runs/folder/checkpoints/last.ckpt")`) and
# any registered method, such as the graph cut: `Predictor(METHODS.get("graph_cut")())` with `from dct_seg.methods
# import METHODS`.
