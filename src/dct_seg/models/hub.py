"""Weights on the Hugging Face Hub, through ``huggingface_hub``; safetensors only."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import ModelCard, ModelHubMixin, hf_hub_download

if TYPE_CHECKING:
    from dct_seg.models.network import InteractiveNetwork

FILE = "model.safetensors"


def is_hub_name(name: str | Path) -> bool:
    """Whether a name can be a repository on the Hub.

    Examples:
        >>> [is_hub_name(name) for name in ("org/name", "name", "a/b/c", "a/b.ckpt", "./name")]
        [True, False, False, False, False]
    """
    text = str(name)
    is_file = text.endswith((".safetensors", ".ckpt", ".pth"))
    return not is_file and re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", text) is not None


def fetch(name: str, *, revision: str | None = None) -> Path:
    """Download the weights of a repository once, to the Hub's cache.

    Args:
        name: ``org/name``.
        revision: Branch, tag or commit; None for ``main``.

    Raises:
        FileNotFoundError: When the Hub has no such weights, or cannot be reached.
    """
    try:
        return Path(hf_hub_download(name, FILE, revision=revision))
    except OSError as error:  # base class of all errors of the Hub
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise FileNotFoundError(
            f"no weights at '{name}'{'' if revision is None else f' in revision {revision}'}: no such path, "
            f"and the Hugging Face Hub reports: {reason}"
        ) from error


def push(
    net: InteractiveNetwork,
    name: str,
    *,
    half: bool,
    card: Mapping[str, str],
    private: bool | None,
    branch: str | None,
    message: str,
) -> str:
    """Upload a network's weights, its configuration and a model card.

    Returns:
        URL of the commit.
    """
    upload = _Upload(net, half, dict(card), name)
    config = asdict(net.config)
    url = upload.push_to_hub(name, config=config, commit_message=message, private=private, branch=branch)
    return str(url)


class _Upload(ModelHubMixin):
    """Weights to upload, with the interface of the mixin."""

    def __init__(self, net: InteractiveNetwork, half: bool, card: dict[str, str], name: str) -> None:
        self.net = net
        self.half = half
        self.card = card
        self.name = name

    def _save_pretrained(self, save_directory: Path) -> None:
        self.net.save_pretrained(save_directory, half=self.half, **self.card)

    def generate_model_card(self, *args: Any, **kwargs: Any) -> ModelCard:
        """Make the model card of the repository from the file's metadata."""
        return ModelCard(model_card(self.name, self.card, asdict(self.net.config)))


def model_card(name: str, card: Mapping[str, str], config: Mapping[str, Any]) -> str:
    """Make the README of a repository of weights.

    Args:
        name: ``org/name``.
        card: Lines of the file's metadata; ``license`` also becomes the license of the repository.
        config: Configuration of the network.

    Examples:
        >>> print(model_card("org/cells", {"license": "mit"}, {"backbone": "resnet18"})[:52])
        ---
        library_name: dct-seg
        license: mit
        pipeline_tag:
    """
    license_line = f"license: {card['license']}\n" if "license" in card else ""
    rows = "".join(f"| {key} | {' '.join(value.split())} |\n" for key, value in card.items())
    return f"""---
library_name: dct-seg
{license_line}pipeline_tag: mask-generation
tags: [interactive-segmentation, click-segmentation]
---

# {name.rpartition("/")[2]}

Click and click-and-drag segmentation with [dct-seg](https://pypi.org/project/dct-seg/).

```python
from dct_seg import Click, Predictor

predictor = Predictor.from_pretrained("{name}")
predictor.set_image(image)  # (H, W, 3) uint8 RGB
mask = predictor.predict([Click(row=120, col=200, radius=45)]).mask
```

| | |
|---|---|
{rows}
Configuration:

```json
{json.dumps(dict(config), indent=1)}
```
"""
