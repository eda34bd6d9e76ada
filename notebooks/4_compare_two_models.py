# %% [markdown]
# # 4. Read a benchmark and compare two models
#
# A benchmark counts the clicks that a simulated user needs until the mask is good enough. This notebook runs two methods
# on a few drawn images: the shipped network, and a graph cut of 2001, which needs no training.
# It then reads the results, compares the methods, and tests whether the difference is significant.

# %%
import json
import shlex
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from IPython.display import display
from PIL import Image

from dct_seg.cli import main

plt.rcParams.update({"figure.dpi": 60, "savefig.dpi": 60, "figure.constrained_layout.use": True})


def dct_seg(command):
    """Run a `dct-seg` command in this process."""
    print(f"$ dct-seg {command}\n")
    main(shlex.split(command))


# %% [markdown]
# ## Run
#
# `Shapes` is a dataset drawn on the fly; a dataset with files is given as `--data GrabCut=data/GrabCut`. With
# `--prompt drag` the simulated user gives the method the radius of each click; with `click` it gives none. A row
# never mixes the two.

# %%
dct_seg(
    "benchmark --data Shapes --limit 10 --prompt drag --max-clicks 8 --out run --method dctnet,graph_cut"
    " --option dctnet.precision=float32 --option dctnet.zoom_size=192"
)

# %% [markdown]
# How to read the table:
#
# - The line above the table belongs to every number: the user's click rule, the probability threshold, the maximum
#   number of clicks. Numbers with different settings must not be compared.
# - *NoC@90* is the mean number of clicks to reach 90 % IoU; lower is better. Brackets show its 95 % bootstrap
#   interval, which is wide for only ten samples.
# - *failures* (NoF) counts the samples that never reach the target. In NoC, such a sample counts with the maximum number
#   of clicks, which hides how bad its mask is, so look at both numbers.
# - For GrabCut and Berkeley, the table also has published numbers and a row *disc*, a baseline that only paints the drags:
#   compare methods with this baseline.
#
# ## Results file
#
# All tables are derived from `results.json`: the settings, the machine, and one record for each sample and method
# with its clicks and the IoU after each of them.

# %%
print(sorted(path.name for path in Path("run").iterdir()))
results = json.loads(Path("run/results.json").read_text())
print(json.dumps(results["settings"]))
record = results["samples"][0]
print({key: record[key] for key in ("data", "method", "name", "ious")})

# %% [markdown]
# The table can therefore be computed by hand. NoC@90 of a sample is its first click with an IoU of 0.9 or more:

# %%
MOST = results["settings"]["max_clicks"]


def curve(record):
    """IoU after each of MOST clicks; after the mask is perfect, the last value stays."""
    ious = record["ious"]
    return np.array(ious + ious[-1:] * (MOST - len(ious)))


def num_clicks(record, target=0.9):
    """Number of clicks to reach the target, or MOST."""
    reached = np.flatnonzero(curve(record) >= target)
    return int(reached[0]) + 1 if len(reached) else MOST


by_method = {m: [r for r in results["samples"] if r["method"] == m] for m in ("dctnet", "graph_cut")}
fig, axes = plt.subplots(1, 2, figsize=(12, 3.6))
for offset, (method, records) in zip((-0.2, 0.2), by_method.items(), strict=True):
    counts = [num_clicks(r) for r in records]
    print(f"{method}: NoC@90 {np.mean(counts):.2f}, failures {sum(curve(r).max() < 0.9 for r in records)}")
    axes[0].plot(range(1, MOST + 1), np.mean([curve(r) for r in records], axis=0), "o-", label=method)
    axes[1].bar(
        np.arange(1, MOST + 1) + offset, np.bincount(counts, minlength=MOST + 1)[1:], 0.4, label=method
    )
axes[0].set(xlabel="clicks", ylabel="mean IoU", title="mIoU@k", ylim=(0, 1))
axes[1].set(xlabel="clicks to 90 %", ylabel="samples", title="where NoC@90 comes from")
axes[0].legend()
axes[1].legend()
plt.show()

# %% [markdown]
# ## Compare, sample by sample
#
# Two means with overlapping intervals may still differ significantly, because both methods ran on the *same* samples.
# `benchmark compare` uses the difference in clicks of each sample, so its interval is the one to trust. Name a run by
# its folder, followed by `:METHOD` if it has several methods.

# %%
dct_seg("benchmark compare run:graph_cut run:dctnet --out compared --first 3")

# %% [markdown]
# The interval decides: below 0, B needs fewer clicks; above 0, more; if it contains 0, there are too few samples
# to tell.
#
# The graph cut may well win here: a drawn shape of one texture on another is ideal for a graph cut, and unlike the images that
# the network was trained on. On natural images the order is reversed: on GrabCut with drags, the README reports one and a half
# clicks for the network and three for the graph cut. The result of a benchmark is valid only for its data.
#
# Images help to explain the numbers. With `--out`, the command also draws the samples that changed most, A above B:

# %%
drawings = sorted(Path("compared").rglob("*.png")) + sorted(Path("compared").rglob("*.jpg"))
for path in drawings[:1]:  # none if both methods need the same number of clicks on every sample
    print(path.as_posix())
    display(Image.open(path).convert("RGB").reduce(2))

# %% [markdown]
# The same commands compare two checkpoints, or results before and after a change:
#
# ```console
# dct-seg benchmark --weights a.ckpt --data GrabCut=data/GrabCut --prompt drag --out runs/a
# dct-seg benchmark --weights b.ckpt --data GrabCut=data/GrabCut --prompt drag --out runs/b
# dct-seg benchmark compare runs/a runs/b --out runs/a_against_b
# ```
#
# Next: [5. The predictor in your project](5_predictor_in_your_project.ipynb).
