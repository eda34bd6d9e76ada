# %% [markdown]
# # 4. Read a benchmark and compare two models
#
# A benchmark lets a simulated user click until the mask is good enough, and counts. This notebook runs two methods
# over a few drawn pictures: the shipped network, and a graph cut of 2001 that has never been trained on anything.
# Then it opens what the run wrote and asks which is better, and how sure one can be.

# %%
import json
import shlex
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
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
# `Shapes` is the data set that is drawn on the fly; for files it would be `--data GrabCut=data/GrabCut`. With
# `--prompt drag` the simulated user tells the method each radius, with `click` it does not. The two are never mixed
# in one table.

# %%
dct_seg(
    "benchmark --data Shapes --limit 10 --prompt drag --max-clicks 8 --out run --method dctnet,graph_cut"
    " --option dctnet.precision=float32 --option dctnet.zoom_size=192"
)

# %% [markdown]
# How to read it:
#
# - The line above the table is part of every number: the rule by which the user clicks, the threshold, the most clicks.
#   Numbers under different lines must not be compared.
# - *NoC@90* is the mean number of clicks to reach 90 % IoU, lower is better. In brackets stands the interval in which
#   the mean would lie in 95 of 100 draws of as many samples. Ten samples are few, so it is wide.
# - *failures* (NoF) never reached the target; they count as the most clicks allowed, which hides how bad they were.
#   Look at both.
# - On the data sets of the field the published numbers stand in the table too, and a row *disc* that paints the drags
#   and does nothing else: what a method is worth is what it has above that.
#
# ## What it wrote
#
# Everything is derived from `results.json`: the settings, where it ran, and one record for each sample and method
# with the IoU after each click and the clicks themselves.

# %%
print(sorted(path.name for path in Path("run").iterdir()))
results = json.loads(Path("run/results.json").read_text())
print(json.dumps(results["settings"]))
record = results["samples"][0]
print({key: record[key] for key in ("data", "method", "name", "ious")})

# %% [markdown]
# So the table can be made again by hand. NoC@90 of a sample is the first click whose IoU is 0.9 or more:

# %%
MOST = results["settings"]["max_clicks"]


def curve(record):
    """The IoU after each of MOST clicks; once nothing was wrong, the last value stays."""
    ious = record["ious"]
    return np.array(ious + ious[-1:] * (MOST - len(ious)))


def num_clicks(record, target=0.9):
    """Clicks until the target, or MOST."""
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
# Two means with overlapping intervals may still differ clearly: both methods saw the *same* samples, and on each one
# the difference in clicks is known. `benchmark compare` takes these differences, and its interval is the one to
# trust. A run is named by its folder, with `:METHOD` where it has several.

# %%
dct_seg("benchmark compare run:graph_cut run:dctnet --out compared --first 3")

# %% [markdown]
# The verdict is read off the interval: below 0, B needs fewer clicks; above 0, more; across 0, this many samples
# cannot tell.
#
# Should the graph cut win here, do not be surprised. A drawn shape of one texture on another is all that it could
# wish for, and foreign to a network that has learnt photographs. On those it is the other way round: on GrabCut with
# drags the README has the network at about two clicks and the graph cut at three. What a benchmark answers, it
# answers for its data.
#
# Numbers say which, pictures say why. With `--out` it drew the samples that changed most, A above B:

# %%
pictures = sorted(Path("compared").rglob("*.png")) + sorted(Path("compared").rglob("*.jpg"))
print(pictures[0].as_posix())
picture = Image.open(pictures[0]).convert("RGB")
picture.reduce(2)

# %% [markdown]
# The same two commands compare two checkpoints, or one checkpoint before and after a change:
#
# ```console
# dct-seg benchmark --weights a.ckpt --data GrabCut=data/GrabCut --prompt drag --out runs/a
# dct-seg benchmark --weights b.ckpt --data GrabCut=data/GrabCut --prompt drag --out runs/b
# dct-seg benchmark compare runs/a runs/b --out runs/a_against_b
# ```
#
# Next: [5. The predictor in your project](5_predictor_in_your_project.ipynb).
