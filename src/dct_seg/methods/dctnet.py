"""DCT-Net as a method: whole image or surroundings of a small drag first, then the object's region."""

from __future__ import annotations

import time
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from dct_seg.click_radii import RadiusSource
from dct_seg.clicks import Click, ClickBatch
from dct_seg.methods.base import METHODS, Answer, Method, Question, check_turn, checked_image, has_object
from dct_seg.methods.correction_radius import shorten_predicted_radii, with_correction_radii
from dct_seg.methods.exported import Backend, ExportedNetwork, load_network
from dct_seg.methods.lockstep import ViewRequest, ViewSteps, run_in_lockstep
from dct_seg.methods.postprocessing import GraphCutStep, make_post_step
from dct_seg.methods.refiners import make_refiner, refined
from dct_seg.methods.view_cache import ViewCache
from dct_seg.methods.views import View, first_view, mirrored_clicks, next_view, object_view, whole_view
from dct_seg.models.network import InteractiveNetwork
from dct_seg.models.pretrained import DEFAULT
from dct_seg.processor import checked_device, has_fast_bfloat16
from dct_seg.ranges import check_booleans, check_number
from dct_seg.registry import check_choice

# minimum resolution gain for a second pass, over the object that the first one found
MIN_ZOOM_GAIN = 1.1
LARGEST_BATCH = 16  # views per forward pass
# Minimum probability inside a view of a method with ``hold_view``. The network receives it with the next
# click, so published results depend on its exact value.
MIN_PROB = np.float32(1e-6)


@METHODS.register("dctnet")
class DCTNetMethod(Method):
    """Method for DCT-Net and other networks.

    The inputs of the last views are cached, and with ``prompt_fusion: late`` their encodings: a click in a
    cached view costs only the prompt branch and the decoder. The cache never changes a result.

    Args:
        checkpoint: Shipped name, weights file, training checkpoint, export folder, or
            ``org/name`` on the Hugging Face Hub; None uses the method's own weights, if any.
        net: Network in memory, instead of ``checkpoint``; it is put in evaluation mode.
        first_size: Longer side of the whole image after resizing, in pixels.
        first_reach: Size in radii of the surroundings predicted while there is no mask, at ``zoom_size``
            pixels, if that is finer than the whole image; 0 uses the whole image. Only with ``zoom_in``.
        look_again: Predict the region of a newly found mask once more, if that gives a finer resolution. This
            doubles the time of such clicks only. Only with ``zoom_in``.
        zoom_in: Predict only the object's region from the second click on, at ``zoom_size`` pixels.
        zoom_size: Longer side of the region, in the network's input pixels.
        zoom_margin: Size of the region, as a multiple of the object's height and width.
        hold_view: Keep the view of the previous click while the object fits it, see `next_view`. None
            keeps it for a ``late`` network, which saves the encoding, and not for an ``early`` one, which
            would save nothing.
        flip: Average with the prediction of the mirrored image, which doubles the time.
        precision: ``float32``, ``bfloat16``, or ``auto``: bfloat16 if it is fast on the device and
            there is no refinement.
        refine: Correct the prediction by a few steps of L-BFGS if clicked pixels are wrong: ``brs``
            changes the click maps, ``fbrs_a``, ``fbrs_b`` and ``fbrs_c`` one layer, ``statistics`` the
            output of Feature-DCT, ``radii`` the drags. Refinement runs in float32.
        refine_options: Options of the refiner, such as ``weight`` and ``max_evals``.
        after: Post-processing: ``mark_clicks`` gives clicked pixels and the inside of drags their label,
            ``graph_cut`` cuts along the image's edges (extra ``classical``), ``connected`` keeps the
            parts with a positive click, ``none`` does nothing.
        after_options: Options of ``after``, such as ``smoothness`` of ``graph_cut``.
        radius_from: Source of the radius of a click without a drag: ``mask`` takes it from the mask that the
            click corrects, and shortens it near clicks with the other label; ``head`` from the
            Auto-Drag-Head, which always gives that of the first click.
        device: Torch device.
        backend: ``onnx`` runs an export folder in onnxruntime, ``torch`` runs weights, ``auto`` decides
            by ``checkpoint``.
        revision: Revision of weights on the Hugging Face Hub: a branch, a tag or a commit.

    Examples:
        >>> from dct_seg import DCTNet, DCTNetConfig
        >>> net = DCTNet(DCTNetConfig(backbone="resnet18", backbone_weights="none"))
        >>> method, image = DCTNetMethod(net=net), np.zeros((40, 50, 3), np.uint8)
        >>> method.reset(image)
        >>> method.predict(image, [Click(20, 25, radius=9.0)], None).shape
        (40, 50)
    """

    name = "dctnet"
    paper = "Lin et al. 2021"
    default_checkpoint: ClassVar[str | None] = DEFAULT
    default_refine: ClassVar[str] = "none"
    default_after: ClassVar[str] = "mark_clicks"
    default_radius_from: ClassVar[RadiusSource] = "mask"
    row: ClassVar[str] = "dct_net"
    """Configuration in ``configs/table2`` that trains the method's weights."""
    wants: ClassVar[Mapping[str, Any]] = {}
    """Required keys and values of the network's configuration."""

    def __init__(
        self,
        checkpoint: str | Path | None = None,
        *,
        net: InteractiveNetwork | ExportedNetwork | None = None,
        first_size: int = 448,
        first_reach: float = 8.0,
        look_again: bool = True,
        zoom_in: bool = True,
        zoom_size: int = 448,
        zoom_margin: float = 1.4,
        hold_view: bool | None = None,
        flip: bool = False,
        precision: Literal["auto", "float32", "bfloat16"] = "auto",
        refine: str | None = None,
        refine_options: Mapping[str, float] | None = None,
        after: str | None = None,
        after_options: Mapping[str, float] | None = None,
        radius_from: RadiusSource | None = None,
        device: str = "cpu",
        backend: Backend = "auto",
        revision: str | None = None,
    ) -> None:
        check_choice("precision", precision, ("auto", "float32", "bfloat16"))
        lowest = {"first_size": 1, "zoom_size": 1, "first_reach": 0, "zoom_margin": 1}
        given = {"first_size": first_size, "zoom_size": zoom_size, "first_reach": first_reach}
        for option, value in {**given, "zoom_margin": zoom_margin}.items():
            check_number(option, value, least=lowest[option])
        check_booleans(look_again=look_again, zoom_in=zoom_in, flip=flip, hold_view=hold_view or False)
        self.device = checked_device(device)
        refine, after = refine or self.default_refine, after or self.default_after
        self.refiner = make_refiner(refine, refine_options or {})
        self.after = make_post_step(after, after_options or {})
        self.radius_from = radius_from or self.default_radius_from
        check_choice("radius_from", self.radius_from, get_args(RadiusSource))
        if self.refiner is not None and precision == "bfloat16":
            raise ValueError(
                f"refine '{refine}' needs float32, since bfloat16 gradients stall it; omit precision"
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
        elif self.wants:
            raise ValueError(
                f"method '{self.name}' needs weights, to check that they are of its own network, got the "
                f"exported network '{self.source}'; give the weights that were exported"
            )
        elif device != "cpu" or precision == "bfloat16" or self.refiner is not None:
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
        self.bfloat16 &= isinstance(self.net, InteractiveNetwork)  # an exported network computes in float32
        self._views = ViewCache(self.device)
        """Cache of inputs and encodings for the image set by ``reset``; this class owns it."""

    def _check(self, net: InteractiveNetwork) -> None:
        """Check that the weights are not of another row's network."""
        config = asdict(net.config)
        differing = [f"{key} {config[key]!r}" for key, value in self.wants.items() if config[key] != value]
        if differing:
            wanted = ", ".join(f"{key} {value!r}" for key, value in self.wants.items())
            raise ValueError(
                f"method '{self.name}' needs a network with {wanted}, but '{self.source}' has "
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
            "radius_from": self.radius_from,
            "precision": "bfloat16" if self.bfloat16 else "float32",
            "device": str(self.device),
            **self.changes,
        }

    def reset(self, image: NDArray[np.uint8]) -> None:
        """Set an image, (H, W, 3) uint8 RGB; a ``late`` network encodes the whole image.

        Raises:
            ValueError: When the image is of another shape or type.
        """
        self._views.reset(checked_image(image))
        if isinstance(self.after, GraphCutStep):
            self.after.reset()
        if self.net.is_late:
            self._features(whole_view(image.shape[:2], self.first_size))
            if self.flip:
                self._features(whole_view(image.shape[:2], self.first_size), mirrored=True)

    def predict(
        self, image: NDArray[np.uint8], clicks: Sequence[Click], previous: NDArray[np.float32] | None
    ) -> NDArray[np.float32]:
        """Predict the probabilities of the object, (H, W); 0 outside a zoomed region.

        Only `answer` returns the view, so that the next click can keep it.

        Raises:
            ValueError: When the image is not the size of the one given to ``reset``, or a click lies outside
                of it.
        """
        return self.answer(image, clicks, None if previous is None else Answer(previous)).probs

    def answer(self, image: NDArray[np.uint8], clicks: Sequence[Click], previous: Answer | None) -> Answer:
        """Predict the probabilities of the object, 0 outside a zoomed region, and return the predicted view.

        Raises:
            ValueError: When ``predict`` does.
        """
        return run_in_lockstep([self._steps(image, clicks, previous)], _answer_alone)[0]

    def answer_many(self, questions: Sequence[Question]) -> list[Answer]:
        """Predict several objects; views of the same size and network share a forward pass.

        Raises:
            ValueError: When ``predict`` does.
        """
        predictions = [
            one.method._steps(one.image, one.clicks, one.previous)
            for one in questions
            if isinstance(one.method, DCTNetMethod)
        ]
        if len(predictions) < len(questions):
            return super().answer_many(questions)
        return run_in_lockstep(predictions, _answer_together)

    def _steps(
        self, image: NDArray[np.uint8], clicks: Sequence[Click], previous: Answer | None
    ) -> ViewSteps[DCTNetMethod, Answer]:
        """Run `answer` in steps."""
        check_turn(image, clicks, self._views.size)
        if not clicks or not has_object(clicks, _probs_of(previous)):
            return Answer(np.zeros(image.shape[:2], np.float32))
        view, in_view = yield from self._view_steps(image, clicks, previous, 1.0)
        probs = self._placed(view, in_view, image.shape[:2])
        if self.after is None:
            return Answer(probs, view)
        inside = np.s_[view.top : view.top + view.height, view.left : view.left + view.width]
        return Answer(self.after(image, probs, clicks, inside), view)

    def predict_view(
        self,
        image: NDArray[np.uint8],
        clicks: Sequence[Click],
        previous: Answer | None,
        *,
        share: float = 1.0,
    ) -> tuple[View, NDArray[np.float32]]:
        """Predict a region and the probabilities there, (h, w) of ``view.size``.

        Args:
            image: (H, W, 3) image, see ``predict``.
            clicks: Clicks, see ``predict``; at least one.
            previous: Answer before the last click, or None.
            share: Factor on ``first_size`` and ``zoom_size``; the time is proportional to its square.

        Raises:
            ValueError: When ``predict`` does.
        """
        return run_in_lockstep([self._view_steps(image, clicks, previous, share)], _answer_alone)[0]

    def _view_steps(
        self, image: NDArray[np.uint8], clicks: Sequence[Click], previous: Answer | None, share: float
    ) -> ViewSteps[DCTNetMethod, tuple[View, NDArray[np.float32]]]:
        """Run `predict_view` in steps."""
        check_turn(image, clicks, self._views.size)
        if self.radius_from == "mask":
            clicks = shorten_predicted_radii(clicks)
        shape = (image.shape[0], image.shape[1])
        before = _probs_of(previous)
        if not has_object(clicks, before):
            whole = whole_view(shape, max(1, round(self.first_size * share)))
            return whole, np.zeros(whole.size, np.float32)
        has_mask = before is not None and bool((before > 0.5).any())
        view = self._view(shape, clicks, previous if has_mask else None, share)
        probs = yield ViewRequest(self, view, clicks, before)
        if not (self.zoom_in and self.look_again) or share < 1 or has_mask:
            return view, probs
        found = self._placed(view, probs, shape)
        closer = object_view(found, clicks, self.zoom_size, margin=self.zoom_margin)
        if closer is None or closer.scale < MIN_ZOOM_GAIN * view.scale:
            return view, probs
        return closer, (yield ViewRequest(self, closer, clicks, found))

    @property
    def _shares_forwards(self) -> bool:
        """Whether the network accepts several views in one batch."""
        net = self.net
        is_plain = isinstance(net, InteractiveNetwork) and not net.click_encoder.needs_image
        return is_plain and not self.flip and self.refiner is None

    def _previous_probs(self, view: View, previous: NDArray[np.float32] | None) -> torch.Tensor:
        """Resize the probabilities before the last click to a view, (1, 1, h, w); zeros before the first."""
        if previous is None:
            return torch.zeros(1, 1, *view.size, device=self.device)
        return self._views.to_tensor(view.crop(previous)[..., None])

    def preview(
        self,
        image: NDArray[np.uint8],
        clicks: Sequence[Click],
        previous: Answer | None,
        *,
        share: float,
    ) -> tuple[View, NDArray[np.float32]]:
        """Predict like `predict_view` at a lower resolution, in ``share`` squared of the time."""
        return self.predict_view(image, clicks, previous, share=share)

    def fill_radii(self, clicks: Sequence[Click], previous: NDArray[np.float32] | None) -> list[Click]:
        """Fill in the radius of each click without one, from the mask or by the Auto-Drag-Head.

        The image is the one given to ``reset``.
        """
        if self.net.auto_drag is None or all(c.radius is not None for c in clicks):
            return list(clicks)
        if self.radius_from == "mask" and previous is not None:
            clicks = with_correction_radii(clicks, previous > 0.5)
            if all(c.radius is not None for c in clicks):
                return list(clicks)
        assert self._views.size is not None, "call reset(image) first"
        view = whole_view(self._views.size, self.first_size)
        before = None if previous is None else self._views.to_tensor(view.crop(previous)[..., None])
        features = self._features(view)
        with self._computing():
            filled = self.net.fill_radii(
                self._views.get(view).image, view.clicks(clicks).to(self.device), before, features
            )
        radii = (filled.radii[0] / view.scale).tolist()
        return [
            c if c.radius is not None else replace(c, radius=float(r), predicted_radius=True)
            for c, r in zip(clicks, radii, strict=True)
        ]

    def _view(
        self,
        shape: tuple[int, int],
        clicks: Sequence[Click],
        previous: Answer | None,
        share: float,
    ) -> View:
        """Choose the view; ``previous`` is None if its mask is empty."""
        whole, zoom_size = whole_view(shape, round(self.first_size * share)), round(self.zoom_size * share)
        if not self.zoom_in:
            return whole
        if previous is None:
            return first_view(shape, clicks, whole, zoom_size, reach=self.first_reach)
        if len(clicks) < 2:
            return whole
        if self.hold_view:
            return next_view(previous.probs, previous.view, clicks, whole, zoom_size, margin=self.zoom_margin)
        return object_view(previous.probs, clicks, zoom_size, margin=self.zoom_margin) or whole

    def _probabilities_in(
        self, view: View, clicks: Sequence[Click], previous: NDArray[np.float32] | None
    ) -> NDArray[np.float32]:
        """Predict the probabilities in a view, (h, w) of its size."""
        inside = view.clicks(clicks).to(self.device)
        before = None if previous is None else self._views.to_tensor(view.crop(previous)[..., None])
        probs = self._probs(view, inside, before)
        if self.flip:
            mirrored = None if before is None else before.flip(-1)
            probs = (
                probs
                + self._probs(view, mirrored_clicks(inside, view.size[1]), mirrored, mirrored=True).flip(-1)
            ) / 2
        in_view: NDArray[np.float32] = probs[0, 0].cpu().numpy()
        return in_view

    def _placed(self, view: View, probs: NDArray[np.float32], shape: tuple[int, ...]) -> NDArray[np.float32]:
        """Paste a view's probabilities into a map of the image, (H, W); zeros outside."""
        result = np.zeros(shape, np.float32)
        resized = cv2.resize(probs, (view.width, view.height), interpolation=cv2.INTER_LINEAR)
        if self.hold_view:
            np.maximum(resized, MIN_PROB, out=resized)
        result[view.top : view.top + view.height, view.left : view.left + view.width] = resized
        return result

    def _probs(
        self, view: View, clicks: ClickBatch, before: torch.Tensor | None, *, mirrored: bool = False
    ) -> torch.Tensor:
        """Predict the probabilities in a view, (1, 1, h, w); the other inputs are already mirrored."""
        features = self._features(view, mirrored=mirrored) if self.net.is_late else None
        cached = self._views.get(view)
        image = cached.image.flip(-1) if mirrored else cached.image
        if mirrored not in cached.prepared:
            cached.prepared[mirrored] = self.net.prepare(image)
        prepared = cached.prepared[mirrored]
        if self.refiner is not None:
            assert isinstance(self.net, InteractiveNetwork)
            return torch.sigmoid(refined(self.refiner, self.net, image, clicks, before, features, prepared))
        with self._computing():
            return torch.sigmoid(self.net(image, clicks, before, features, prepared))

    def _features(self, view: View, *, mirrored: bool = False) -> list[torch.Tensor]:
        """Encode the view's image."""
        began = time.perf_counter()
        cached = self._views.get(view)
        features = cached.mirrored if mirrored else cached.features
        if features is not None:
            return features
        with self._computing():
            features = self.net.encode_image(cached.image.flip(-1) if mirrored else cached.image)
        if mirrored:
            cached.mirrored = features
        else:
            cached.features = features
        self.encode_seconds += time.perf_counter() - began
        return features

    @contextmanager
    def _computing(self) -> Iterator[None]:
        # tensors made in inference mode cannot enter the graph of a refiner
        without_graph = torch.inference_mode() if self.refiner is None else torch.no_grad()
        with without_graph, torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16):
            yield


def _probs_of(answer: Answer | None) -> NDArray[np.float32] | None:
    return None if answer is None else answer.probs


def _answer_alone(requests: list[ViewRequest[DCTNetMethod]]) -> list[NDArray[np.float32]]:
    """Predict the probabilities of requests, one forward pass after the other."""
    return [r.method._probabilities_in(r.view, r.clicks, r.previous) for r in requests]


def _answer_together(requests: list[ViewRequest[DCTNetMethod]]) -> list[NDArray[np.float32]]:
    """Predict the probabilities of requests, with one forward pass per network and size."""
    groups: dict[Hashable, list[int]] = {}
    for i, r in enumerate(requests):
        method = r.method
        alike = (id(method.net), r.view.size, method.bfloat16) if method._shares_forwards else i
        groups.setdefault(alike, []).append(i)
    answers: dict[int, NDArray[np.float32]] = {}
    for group in groups.values():
        for some in (group[at : at + LARGEST_BATCH] for at in range(0, len(group), LARGEST_BATCH)):
            chosen = [requests[i] for i in some]
            found = _answer_alone(chosen) if len(some) == 1 else _one_forward(chosen)
            answers.update(zip(some, found, strict=True))
    return [answers[i] for i in range(len(requests))]


def _one_forward(requests: Sequence[ViewRequest[DCTNetMethod]]) -> list[NDArray[np.float32]]:
    first = requests[0].method
    images = torch.cat([r.method._views.get(r.view).image for r in requests])
    inside = ClickBatch.from_clicks([r.view.clicks(r.clicks).to_clicks()[0] for r in requests])
    before = torch.cat([r.method._previous_probs(r.view, r.previous) for r in requests])
    levels = [r.method._features(r.view) for r in requests] if first.net.is_late else []
    features = [torch.cat(list(level)) for level in zip(*levels, strict=True)] or None
    with first._computing():
        probs = torch.sigmoid(first.net(images, inside.to(first.device), before, features))
    return list(probs[:, 0].cpu().numpy())
