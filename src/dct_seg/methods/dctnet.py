"""DCT-Net as a method: whole image or surroundings of a small drag first, then the object's region."""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from dct_seg.clicks import Click, ClickBatch
from dct_seg.methods.after import make_after
from dct_seg.methods.base import METHODS, Method, check_turn, checked_image, has_object
from dct_seg.methods.exported import Backend, ExportedNetwork, load_network
from dct_seg.methods.refiners import make_refiner, refined
from dct_seg.methods.views import View, first_view, next_view, object_view, whole_view
from dct_seg.models.network import InteractiveNetwork
from dct_seg.models.pretrained import DEFAULT
from dct_seg.processor import has_fast_bfloat16
from dct_seg.registry import check_choice

KEPT_VIEWS = 3  # the whole image and the last two regions; with `late` some 10 MB each
# minimum resolution gain for a second pass, over the object that the first one found
MIN_ZOOM_GAIN = 1.1
LARGEST_BATCH = 16  # views of one forward
# Minimum probability inside a view that may be kept. The support of ``previous`` carries the previous view,
# so that ``predict`` stays a function of its arguments; see ``next_view``.
FLOOR = np.float32(1e-6)


@dataclass
class _Seen:
    """Cached input of the network for a view, (1, 3, h, w), and its features once computed.

    Includes the mirrored view.

    Args:
        prepared: Per-image input of the click encoder, for the image and, under True, its mirror image.
    """

    image: torch.Tensor
    features: list[torch.Tensor] | None = None
    mirrored: list[torch.Tensor] | None = None
    prepared: dict[bool, Any] = field(default_factory=dict)


@METHODS.register("dctnet")
class DCTNetMethod(Method):
    """DCT-Net behind the protocol of all methods.

    The inputs of the last views are cached, and with ``prompt_fusion: late`` their encodings: a click in a
    cached view costs only the prompt branch and the decoder. The cache never changes an answer.

    Args:
        checkpoint: A shipped name, a file of weights, a checkpoint of training, an export folder, or
            ``org/name`` on the Hugging Face Hub; None is the method's own, if it has any.
        net: A network that is already in memory, instead of ``checkpoint``; it is put in evaluation mode.
        first_size: Longer side of the whole image after resizing, in pixels.
        first_reach: Radii around the clicks that are seen while there is no mask, at ``zoom_size`` pixels, if
            that is finer than the whole image; 0 looks at the whole image. Only with ``zoom_in``.
        look_again: Predict the region of a newly found mask once more, if that gives a finer resolution. This
            doubles the time of such clicks only. Only with ``zoom_in``.
        zoom_in: Predict only the object's region from the second click on, at ``zoom_size`` pixels.
        zoom_size: Longer side of the region, in the network's input pixels.
        zoom_margin: Size of the region, as a multiple of the object's height and width.
        hold_view: Keep the view of the previous click while the object fits it, see :func:`next_view`. None
            keeps it for a ``late`` network, which saves the encoding, and not for an ``early`` one, which
            would save nothing.
        flip: Average with the prediction of the mirrored image; twice the time.
        precision: ``float32``, ``bfloat16``, or ``auto``: bfloat16 where the processor computes in it and
            nothing is refined.
        refine: Correct the answer by a few steps of L-BFGS where clicked pixels come out wrong: ``brs``
            changes the click maps, ``fbrs_a``, ``fbrs_b`` and ``fbrs_c`` one layer, ``statistics`` what
            Feature-DCT predicts, ``radii`` the drags. In float32.
        refine_options: Options of the refiner, such as ``weight`` and ``max_evals``.
        after: Post-processing of the whole image's probabilities: ``graph_cut`` cuts along the image's edges
            (extra ``classical``), ``connected`` keeps the parts that hold a positive click.
        after_options: Options of ``after``, such as ``smoothness`` of ``graph_cut``.
        device: A torch device.
        backend: ``onnx`` runs an export folder in onnxruntime, ``torch`` runs weights, ``auto`` whichever
            ``checkpoint`` is.
        revision: Revision of weights on the Hugging Face Hub: a branch, a tag or a commit.
    """

    name = "dctnet"
    paper = "Lin et al. 2021"
    default_checkpoint: ClassVar[str | None] = DEFAULT
    default_refine: ClassVar[str] = "none"
    default_after: ClassVar[str] = "none"
    row: ClassVar[str] = "dct_net"
    """The configuration in ``configs/table2`` that trains the method's weights."""
    wants: ClassVar[Mapping[str, Any]] = {}
    """Keys and values that the configuration of a network must have for this method."""

    def __init__(
        self,
        checkpoint: str | Path | None = None,
        *,
        net: InteractiveNetwork | ExportedNetwork | None = None,
        first_size: int = 448,
        first_reach: float = 8.0,
        look_again: bool = True,
        zoom_in: bool = True,
        zoom_size: int = 384,
        zoom_margin: float = 1.4,
        hold_view: bool | None = None,
        flip: bool = False,
        precision: Literal["auto", "float32", "bfloat16"] = "auto",
        refine: str | None = None,
        refine_options: Mapping[str, float] | None = None,
        after: str | None = None,
        after_options: Mapping[str, float] | None = None,
        device: str = "cpu",
        backend: Backend = "auto",
        revision: str | None = None,
    ) -> None:
        check_choice("precision", precision, ("auto", "float32", "bfloat16"))
        lowest = {"first_size": 1, "zoom_size": 1, "first_reach": 0, "zoom_margin": 1}
        given = {"first_size": first_size, "zoom_size": zoom_size, "first_reach": first_reach}
        for option, value in {**given, "zoom_margin": zoom_margin}.items():
            if not (math.isfinite(value) and value >= lowest[option]):
                raise ValueError(f"{option} is a number of {lowest[option]} or more, got {value}")
        self.device = _checked_device(device)
        refine, after = refine or self.default_refine, after or self.default_after
        self.refiner = make_refiner(refine, refine_options or {})
        self.after = make_after(after, after_options or {})
        if self.refiner is not None and precision == "bfloat16":
            raise ValueError(
                f"refine '{refine}' needs float32, since bfloat16 gradients stall it; leave precision out"
            )
        self.changes = {
            **({"refine": refine, "refine_options": dict(refine_options or {})} if self.refiner else {}),
            **({"after": after, "after_options": dict(after_options or {})} if self.after else {}),
        }
        checkpoint = self.default_checkpoint if checkpoint is None else checkpoint
        if net is None and checkpoint is None:
            raise ValueError(
                f"method '{self.name}' has no weights in the package; train them with "
                f"configs/table2/{self.row}.yaml, then give --checkpoints DIR or "
                f"--option {self.name}.checkpoint=FILE"
            )
        self.source = "in memory" if net is not None else str(checkpoint)
        self.net = load_network(checkpoint or "", backend, revision=revision) if net is None else net
        if isinstance(self.net, InteractiveNetwork):
            self._check(self.net)
            self.net = self.net.eval().to(self.device).to(memory_format=torch.channels_last)
        elif device != "cpu" or precision == "bfloat16" or self.refiner is not None or self.wants:
            raise ValueError(
                f"method '{self.name}' runs an exported network in float32 on the CPU without refinement, "
                f"got device='{device}', precision='{precision}', refine='{refine}'; "
                "give the weights instead"
            )
        self.first_size = first_size
        self.first_reach = first_reach
        self.look_again = look_again
        self.flip = flip
        self.zoom_in = zoom_in
        self.zoom_size = zoom_size
        self.zoom_margin = zoom_margin
        self.hold_view = self.net.is_late if hold_view is None else hold_view
        fast = self.refiner is None and has_fast_bfloat16(self.device)
        self.bfloat16 = fast if precision == "auto" else precision == "bfloat16"
        self.bfloat16 &= isinstance(self.net, InteractiveNetwork)  # an exported one computes in float32
        self._image: NDArray[np.uint8] | None = None
        self._views: OrderedDict[View, _Seen] = OrderedDict()
        """Cache of the network's inputs and encodings of the image set by ``reset``; this class owns it."""

    def _check(self, net: InteractiveNetwork) -> None:
        """Refuse weights of a different row's network."""
        config = asdict(net.config)
        differing = [f"{key} {config[key]!r}" for key, value in self.wants.items() if config[key] != value]
        if differing:
            wanted = ", ".join(f"{key} {value!r}" for key, value in self.wants.items())
            raise ValueError(
                f"method '{self.name}' wants a network with {wanted}, but '{self.source}' has "
                f"{', '.join(differing)}; configs/table2/{self.row}.yaml trains it"
            )

    @property
    def options(self) -> dict[str, Any]:
        return {
            "checkpoint": self.source,
            "first_size": self.first_size,
            "first_reach": self.first_reach,
            "look_again": self.look_again,
            "zoom_in": self.zoom_in,
            "zoom_size": self.zoom_size,
            "zoom_margin": self.zoom_margin,
            "hold_view": self.hold_view,
            "flip": self.flip,
            "precision": "bfloat16" if self.bfloat16 else "float32",
            "device": str(self.device),
            **self.changes,
        }

    def reset(self, image: NDArray[np.uint8]) -> None:
        """Set an image, (H, W, 3) uint8 RGB; a ``late`` network encodes the whole image.

        Raises:
            ValueError: When the image is of another shape or type.
        """
        self._image = checked_image(image)
        self._views.clear()
        if self.net.is_late:
            self._features(whole_view(image.shape[:2], self.first_size))
            if self.flip:
                self._features(whole_view(image.shape[:2], self.first_size), mirrored=True)

    def predict(
        self, image: NDArray[np.uint8], clicks: Sequence[Click], previous: NDArray[np.float32] | None
    ) -> NDArray[np.float32]:
        """Probabilities of the object, (H, W); 0 outside a zoomed region.

        Raises:
            ValueError: When the image is not the size of the one given to ``reset``, or a click lies outside
                of it.
        """
        check_turn(image, clicks, None if self._image is None else self._image.shape[:2])
        if not clicks or not has_object(clicks, previous):
            return np.zeros(image.shape[:2], np.float32)
        view, seen = self.predict_view(image, clicks, previous)
        probs = self._placed(view, seen, image.shape[:2])
        if self.after is None:
            return probs
        inside = np.s_[view.top : view.top + view.height, view.left : view.left + view.width]
        return self.after(image, probs, clicks, inside)

    def predict_view(
        self,
        image: NDArray[np.uint8],
        clicks: Sequence[Click],
        previous: NDArray[np.float32] | None,
        *,
        share: float = 1.0,
    ) -> tuple[View, NDArray[np.float32]]:
        """The region that the network looks at, and the probabilities there at the network's size, (h, w) of
        ``view.size``.

        Args:
            image: (H, W, 3) image, see ``predict``.
            clicks: Clicks, see ``predict``; at least one.
            previous: Answer before the last click, see ``predict``.
            share: Factor on ``first_size`` and ``zoom_size``; the time falls with its square.

        Raises:
            ValueError: When ``predict`` does.
        """
        check_turn(image, clicks, None if self._image is None else self._image.shape[:2])
        shape = (image.shape[0], image.shape[1])
        if not has_object(clicks, previous):
            whole = whole_view(shape, max(1, round(self.first_size * share)))
            return whole, np.zeros(whole.size, np.float32)
        has_mask = previous is not None and bool((previous > 0.5).any())
        view = self._view(shape, clicks, previous if has_mask else None, share)
        probs = self._look(view, clicks, previous)
        if not (self.zoom_in and self.look_again) or share < 1 or has_mask:
            return view, probs
        found = self._placed(view, probs, shape)
        closer = self._closer(view, found, clicks)
        return (view, probs) if closer is None else (closer, self._look(closer, clicks, found))

    def _closer(self, view: View, found: NDArray[np.float32], clicks: Sequence[Click]) -> View | None:
        """Region of the mask found in ``view``, if a second pass gains enough resolution; else None."""
        closer = object_view(found, clicks, self.zoom_size, margin=self.zoom_margin)
        return None if closer is None or closer.scale < MIN_ZOOM_GAIN * view.scale else closer

    def predict_many(
        self,
        image: NDArray[np.uint8],
        clicks: Sequence[Sequence[Click]],
        previous: Sequence[NDArray[np.float32] | None],
    ) -> list[NDArray[np.float32]]:
        """Predict several objects, with one forward pass for all views of one size.

        Raises:
            ValueError: When ``predict`` does.
        """
        net = self.net
        plain = not (self.flip or self.refiner or self.after) and all(map(has_object, clicks, previous))
        if not plain or not isinstance(net, InteractiveNetwork) or net.click_encoder.needs_image:
            return super().predict_many(image, clicks, previous)
        size = None if self._image is None else self._image.shape[:2]
        shape = check_turn(image, [click for one in clicks for click in one], size)
        has_mask = [before is not None and bool((before > 0.5).any()) for before in previous]
        views = [
            self._view(shape, one, before if known else None, 1.0)
            for one, before, known in zip(clicks, previous, has_mask, strict=True)
        ]
        looks = self._look_many(net, views, clicks, previous)
        found = [self._placed(view, probs, shape) for view, probs in zip(views, looks, strict=True)]
        if not (self.zoom_in and self.look_again):
            return found
        again = [
            (i, closer)
            for i, known in enumerate(has_mask)
            if not known and (closer := self._closer(views[i], found[i], clicks[i])) is not None
        ]
        chosen, closer_views = [i for i, _ in again], [view for _, view in again]
        looks = self._look_many(net, closer_views, [clicks[i] for i in chosen], [found[i] for i in chosen])
        for i, view, probs in zip(chosen, closer_views, looks, strict=True):
            found[i] = self._placed(view, probs, shape)
        return found

    def _look_many(
        self,
        net: InteractiveNetwork,
        views: Sequence[View],
        clicks: Sequence[Sequence[Click]],
        previous: Sequence[NDArray[np.float32] | None],
    ) -> list[NDArray[np.float32]]:
        """The probabilities in several views, each (h, w) of its size."""
        answers: list[NDArray[np.float32]] = [np.empty((0, 0), np.float32)] * len(views)
        for size in dict.fromkeys(view.size for view in views):
            alike = [i for i, view in enumerate(views) if view.size == size]
            for some in (alike[at : at + LARGEST_BATCH] for at in range(0, len(alike), LARGEST_BATCH)):
                images = torch.cat([self._seen(views[i]).image for i in some])
                inside = ClickBatch.from_clicks([views[i].clicks(clicks[i]).to_clicks()[0] for i in some])
                before = torch.cat([self._before(views[i], previous[i]) for i in some])
                levels = [self._features(views[i]) for i in some] if net.is_late else []
                features = [torch.cat(list(level)) for level in zip(*levels, strict=True)] or None
                with self._computing():
                    probs = torch.sigmoid(net(images, inside.to(self.device), before, features))
                for i, one in zip(some, probs[:, 0].cpu().numpy(), strict=True):
                    answers[i] = one
        return answers

    def _before(self, view: View, previous: NDArray[np.float32] | None) -> torch.Tensor:
        """(1, 1, h, w) probabilities before the last click in a view; zeros before the first."""
        if previous is None:
            return torch.zeros(1, 1, *view.size, device=self.device)
        return self._tensor(view.crop(previous)[..., None])

    def preview(
        self,
        image: NDArray[np.uint8],
        clicks: Sequence[Click],
        previous: NDArray[np.float32] | None,
        *,
        share: float,
    ) -> tuple[View, NDArray[np.float32]]:
        """The answer of :meth:`predict_view` at a lower resolution, in ``share`` squared of the time."""
        return self.predict_view(image, clicks, previous, share=share)

    def fill_radii(self, clicks: Sequence[Click], previous: NDArray[np.float32] | None) -> list[Click]:
        """The clicks, with the Auto-Drag-Head's radius for each that has none.

        The image is the one given to ``reset``.
        """
        if self.net.auto_drag is None or all(c.radius is not None for c in clicks):
            return list(clicks)
        assert self._image is not None, "reset() comes first"
        view = whole_view(self._image.shape[:2], self.first_size)
        before = None if previous is None else self._tensor(view.crop(previous)[..., None])
        features = self._features(view)
        with self._computing():
            filled = self.net.fill_radii(
                self._seen(view).image, view.clicks(clicks).to(self.device), before, features
            )
        radii = (filled.radii[0] / view.scale).tolist()
        return [
            c if c.radius is not None else replace(c, radius=float(r))
            for c, r in zip(clicks, radii, strict=True)
        ]

    def _view(
        self,
        shape: tuple[int, int],
        clicks: Sequence[Click],
        previous: NDArray[np.float32] | None,
        share: float,
    ) -> View:
        """Choose the view; ``previous`` is None where it is empty."""
        whole, zoom_size = whole_view(shape, round(self.first_size * share)), round(self.zoom_size * share)
        if not self.zoom_in:
            return whole
        if previous is None:
            return first_view(shape, clicks, whole, zoom_size, reach=self.first_reach)
        if len(clicks) < 2:
            return whole
        if self.hold_view:
            return next_view(previous, clicks, whole, zoom_size, margin=self.zoom_margin)
        return object_view(previous, clicks, zoom_size, margin=self.zoom_margin) or whole

    def _look(
        self, view: View, clicks: Sequence[Click], previous: NDArray[np.float32] | None
    ) -> NDArray[np.float32]:
        """The probabilities in a view, (h, w) of its size."""
        inside = view.clicks(clicks).to(self.device)
        before = None if previous is None else self._tensor(view.crop(previous)[..., None])
        probs = self._probs(view, inside, before)
        if self.flip:
            mirrored = None if before is None else before.flip(-1)
            probs = (
                probs + self._probs(view, _mirrored(inside, view.size[1]), mirrored, mirrored=True).flip(-1)
            ) / 2
        seen: NDArray[np.float32] = probs[0, 0].cpu().numpy()
        return seen

    def _placed(self, view: View, probs: NDArray[np.float32], shape: tuple[int, ...]) -> NDArray[np.float32]:
        """Place a view's probabilities into a map of the image, (H, W); zeros outside."""
        result = np.zeros(shape, np.float32)
        seen = cv2.resize(probs, (view.width, view.height), interpolation=cv2.INTER_LINEAR)
        if self.hold_view:
            np.maximum(seen, FLOOR, out=seen)
        result[view.top : view.top + view.height, view.left : view.left + view.width] = seen
        return result

    def _probs(
        self, view: View, clicks: ClickBatch, before: torch.Tensor | None, *, mirrored: bool = False
    ) -> torch.Tensor:
        """(1, 1, h, w) probabilities in a view, with all else mirrored already."""
        features = self._features(view, mirrored=mirrored) if self.net.is_late else None
        seen = self._seen(view)
        image = seen.image.flip(-1) if mirrored else seen.image
        if mirrored not in seen.prepared:
            seen.prepared[mirrored] = self.net.prepare(image)
        prepared = seen.prepared[mirrored]
        if self.refiner is not None:
            assert isinstance(self.net, InteractiveNetwork)
            return torch.sigmoid(refined(self.refiner, self.net, image, clicks, before, features, prepared))
        with self._computing():
            return torch.sigmoid(self.net(image, clicks, before, features, prepared))

    def _features(self, view: View, *, mirrored: bool = False) -> list[torch.Tensor]:
        """The network's features of the view's image alone."""
        began = time.perf_counter()
        seen = self._seen(view)
        features = seen.mirrored if mirrored else seen.features
        if features is not None:
            return features
        with self._computing():
            features = self.net.encode_image(seen.image.flip(-1) if mirrored else seen.image)
        if mirrored:
            seen.mirrored = features
        else:
            seen.features = features
        self.encode_seconds += time.perf_counter() - began
        return features

    def _seen(self, view: View) -> _Seen:
        """Cached data of a view; the least recently used view makes room for a new one."""
        seen = self._views.get(view)
        if seen is None:
            assert self._image is not None, "reset() comes first"
            image = (
                self._tensor(view.crop(self._image)).contiguous(memory_format=torch.channels_last).div_(255)
            )
            seen = self._views[view] = _Seen(image)
            if len(self._views) > KEPT_VIEWS:
                self._views.popitem(last=False)
        self._views.move_to_end(view)
        return seen

    def _tensor(self, array: NDArray[Any]) -> torch.Tensor:
        return (
            torch.from_numpy(array.astype(np.float32)).to(self.device).permute(2, 0, 1)[None]
        )  # astype copies: the caller's array stays unchanged

    @contextmanager
    def _computing(self) -> Iterator[None]:
        # tensors made in inference mode cannot enter the graph of a refiner
        without_graph = torch.inference_mode() if self.refiner is None else torch.no_grad()
        with without_graph, torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16):
            yield


def _checked_device(device: str | torch.device) -> torch.device:
    try:
        found = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"unknown device '{device}'; give cpu, cuda, cuda:1 or mps") from error
    if found.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            f"device '{device}' needs a GPU and a PyTorch built for it, and there is none; give cpu"
        )
    return found


def _mirrored(clicks: ClickBatch, width: int) -> ClickBatch:
    coords = clicks.coords * clicks.coords.new_tensor([1, -1]) + clicks.coords.new_tensor([0, width - 1])
    return ClickBatch(coords, clicks.labels, clicks.radii)
