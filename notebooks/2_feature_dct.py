# %% [markdown]
# # 2. Feature-DCT by hand
#
# Spatial-DCT encodes position and size. Feature-DCT encodes *appearance*: it samples the image's features at each click,
# folds them into one feature `f`, and predicts from `f` the shift and scale of the decoder's layers (section 2.2 of the
# paper). The fold is eq. 3:
#
# ```text
# f_i = (f_{i-1} + Q) / 2               after a positive click
# f_i = f_{i-1} - (f_{i-1} · Q) Q / |Q| after a negative click
# ```
#
# where `Q` is the feature at the click. Real features have hundreds of dimensions. With two, each can be drawn as an arrow.

# %%
import matplotlib.pyplot as plt
import numpy as np
import torch
from skimage import data

from dct_seg import Click, ClickBatch, DCTNet
from dct_seg.models.feature_dct import fold_clicks, sample_at

plt.rcParams.update(
    {"figure.dpi": 60, "savefig.dpi": 60, "axes.titlesize": 11, "figure.constrained_layout.use": True}
)


def arrow(axes, end, color, label, **options):
    """Draw a vector from the origin."""
    axes.annotate(
        "",
        xy=end,
        xytext=(0, 0),
        arrowprops={"arrowstyle": "-|>", "color": color, "lw": 2.5, "shrinkA": 0, **options},
    )
    axes.annotate(
        label, xy=end, xytext=(0, 5), textcoords="offset points", ha="center", color=color, fontsize=12
    )


def plane(axes, title, low, high):
    """Set up axes for two-dimensional vectors, with equal scales."""
    axes.axhline(0, color="0.8", zorder=0)
    axes.axvline(0, color="0.8", zorder=0)
    axes.set(xlim=(low, high), ylim=(low, high), aspect="equal", title=title)


# %% [markdown]
# ## A positive click: halfway to the new feature
#
# The paper does not define `f_0`. Here, `f` starts as the `Q` of the first positive click. Each further positive click moves
# `f` halfway to its own `Q`: the newest click has weight one half, the one before a quarter, and so on.

# %%
q = torch.tensor([[[4.0, 1.0], [1.0, 3.0], [-1.0, 1.0]]])  # (B, N, D): three clicks, two numbers each
fig, axes = plt.subplots(1, 3, figsize=(12, 4))
for i, axis in enumerate(axes):
    f = fold_clicks(q[:, : i + 1], torch.ones(1, i + 1, dtype=torch.long))[0]
    plane(axis, f"after click {i + 1}: f = ({f[0]:g}, {f[1]:g})", -2, 5)
    for n in range(i + 1):
        arrow(axis, q[0, n].tolist(), "#00a02c", f"Q{n + 1}" if i else "", alpha=0.45)
    arrow(axis, f.tolist(), "black", "f" if i else "f = Q1")

# %% [markdown]
# ## A negative click: removal of a direction
#
# The paper's text calls it *vector rejection*: it removes the component of `f` along `Q`. A rejection is
# `f - (f · Q) Q / |Q|²`, with the length squared. The printed formula divides by the length once. The two
# agree only if `|Q| = 1`. Below are the same `f` and the same direction of `Q` with three lengths.

# %%
f0 = torch.tensor([4.0, 3.0])
direction = torch.tensor([1.0, 0.5]) / torch.tensor([1.0, 0.5]).norm()


def after_negative(length, rejection):
    """`f` after a positive click with feature f0 and a negative one along `direction`."""
    two = torch.stack([f0, direction * length])[None]
    return fold_clicks(two, torch.tensor([[1, 0]]), rejection=rejection)[0]


fig, axes = plt.subplots(1, 3, figsize=(13, 4.4))
for axis, length in zip(axes, (0.5, 1.0, 2.0), strict=True):
    true, printed = after_negative(length, "true"), after_negative(length, "printed")
    plane(axis, f"|Q| = {length:g}", -6, 6)
    axis.axline((0, 0), tuple(direction.tolist()), color="#ff2828", alpha=0.25, linestyle="--")
    arrow(axis, f0.tolist(), "0.55", "f before")
    arrow(axis, (direction * length).tolist(), "#ff2828", "Q")
    arrow(axis, true.tolist(), "black", "true")
    if not torch.allclose(true, printed):
        arrow(axis, printed.tolist(), "C0", "printed")

# %% [markdown]
# The true rejection (black) is always perpendicular to `Q`, whatever the length of `Q`.
# The printed formula removes too little for a short `Q` and too much for a long one: `f` ends up on the other side.
# This is the remaining component along `Q`, which is 0 for a rejection:

# %%
print("   |Q|   left by true   left by printed")
for length in (0.5, 1.0, 2.0, 5.0, 20.0):
    left = [
        round(float(after_negative(length, rejection) @ direction), 3) + 0.0
        for rejection in ("true", "printed")
    ]
    print(f"{length:6g}   {left[0]:12.3f}   {left[1]:15.3f}")

# %% [markdown]
# The remainder is `(1 - |Q|) f · Q / |Q|`: for features of length 20, the "removed" component returns nineteen
# times as large with the opposite sign. Below are the lengths in a real network: features of the shipped model at three clicks on an
# image, two on the cat and one on the wall behind it.

# %%
pixels = data.chelsea()
clicks = [Click(150, 200, radius=110), Click(60, 100, radius=25), Click(120, 410, positive=False, radius=40)]
batch = ClickBatch.from_clicks([clicks])
net = DCTNet.from_pretrained("dct-lite0").eval()
size = (288, 448)  # a multiple of the backbone's stride; the image is 300 x 451
image = torch.from_numpy(pixels[: size[0], : size[1]].copy()).permute(2, 0, 1)[None] / 255
with torch.inference_mode():
    features = net.backbone(image, torch.cat([net.click_encoder(batch, size), torch.zeros(1, 1, *size)], 1))[
        -3:
    ]
    raw = torch.cat([sample_at(one, batch.coords, size) for one in features], -1)  # (B, N, D)
    scaled = torch.cat(
        [
            torch.nn.functional.layer_norm(q, q.shape[-1:])
            for q in (sample_at(o, batch.coords, size) for o in features)
        ],
        -1,
    )
print("numbers per click:", " + ".join(str(one.shape[1]) for one in features), "=", raw.shape[-1])
print("|Q| without normalization:   ", [round(v, 1) for v in raw.norm(dim=-1)[0].tolist()])
print("|Q| with normalize_features: ", [round(v, 1) for v in scaled.norm(dim=-1)[0].tolist()])

# %% [markdown]
# No length is close to 1, so the default is the true rejection; `rejection: printed` in the network's configuration
# restores the printed formula for comparison.
#
# ## The order of clicks
#
# The clicks are folded in the order in which they were made. A negative click at the beginning has no `f` to change; the
# same click at the end changes `f`. Therefore a `ClickBatch` keeps the order, and undo drops the last click.

# %%
fold = [q[0, 0], torch.tensor([1.0, 2.0])]
for order, name in (((0, 1), "positive, negative"), ((1, 0), "negative, positive")):
    labels = torch.tensor([[1, 0]])[:, list(order)]
    f = fold_clicks(torch.stack([fold[i] for i in order])[None], labels)[0]
    print(f"{name}: f = ({f[0]:.2f}, {f[1]:.2f})")

# %% [markdown]
# ## From one feature to the decoder's statistics
#
# A small fully connected net maps `f` to a mean and a standard deviation for each channel of three decoder layers. Each
# layer is normalized (instance norm: mean 0, deviation 1) and then gets these statistics. An untrained net predicts mean 0
# and deviation 1, plain instance norm. The shipped model has no such norm (`feature_dct_norm: none`): its layers are only
# scaled and shifted. Below are the predictions of the shipped model for its coarsest layer, and their change after a negative click.

# %%
with torch.inference_mode():
    before = net.feature_dct(features, ClickBatch.from_clicks([batch.to_clicks()[0][:-1]]), size)[0]
    after = net.feature_dct(features, batch, size)[0]
fig, axes = plt.subplots(1, 2, figsize=(12, 3))
for axis, name, one, other in zip(axes, ("mean", "standard deviation"), before, after, strict=True):
    order = np.argsort(one[0].numpy())
    axis.plot(one[0].numpy()[order], color="#00a02c", label="two positive clicks")
    axis.plot(other[0].numpy()[order], ".", color="#ff2828", markersize=4, label="and a negative one")
    axis.set(title=f"{name} of each channel", xlabel="channel, sorted")
    axis.legend()
plt.show()

# %% [markdown]
# (Nothing forces a deviation to be above 0; a negative one inverts its channel.)
#
# Each click thus adapts three decoder layers in one forward pass. The order of clicks is all that Feature-DCT keeps between
# clicks; the shipped network also reads the previous mask.
#
# Next: [3. Train on your own folder](3_train_on_your_own_folder.ipynb).
