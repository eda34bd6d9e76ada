"""Benchmark runner for any number of processes and machines; a killed run can be resumed."""

from __future__ import annotations

import hashlib
import inspect
import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from dct_seg.benchmark.digests import content_digests
from dct_seg.benchmark.environment import describe_environment
from dct_seg.benchmark.parallel import Ranks, run_all
from dct_seg.benchmark.results import (
    RESULTS,
    ClickRecord,
    Condition,
    Journal,
    Results,
    SampleRecord,
    Settings,
    journals,
    read_earlier,
)
from dct_seg.benchmark.strips import NUM_TURNS, save_strip, strip_path
from dct_seg.clicks import Click, ClickBatch
from dct_seg.data.base import Sample
from dct_seg.data.datasets import DATASETS, open_dataset
from dct_seg.data.sampling import is_held_out
from dct_seg.drawing import Turn, draw_strip
from dct_seg.files import lock_folder
from dct_seg.methods.base import METHODS, Method
from dct_seg.metrics import iou
from dct_seg.predictor import Predictor
from dct_seg.ranges import check_number
from dct_seg.registry import check_options
from dct_seg.simulation import Prompt, Rule
from dct_seg.simulation.user import SimulatedUser


@dataclass(frozen=True)
class MethodSpec:
    """Factory of a registered method with its options.

    Args:
        name: Name in ``METHODS``.
        options: Keyword arguments of the method's class.
    """

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self) -> Method:
        """Create the method.

        Raises:
            ValueError: When the name or an option is unknown.
        """
        build = METHODS.get(self.name)
        known = list(inspect.signature(build).parameters)
        check_options("method", self.name, self.options, known)
        try:
            return build(**self.options)
        except TypeError as error:
            given = ", ".join(f"{option} {value!r}" for option, value in self.options.items())
            raise ValueError(f"method '{self.name}' cannot be created with {given}: {error}") from error


MethodSource = Mapping[str, Any] | Callable[[], Method]
"""Source of a method: options of the registered method of that name, or a factory."""


class SampleSource(Protocol):
    """Interface of a benchmark dataset."""

    def __len__(self) -> int: ...
    def read(self, index: int) -> Sample: ...
    def name(self, index: int) -> str: ...


SampleRun = tuple[str, str, Condition, int]
"""Sample to run: labels of dataset and method, condition and index; also the key of its record."""


@dataclass
class Bench:
    """Methods and datasets of a run, created at first use in each process.

    Args:
        methods: Source of each method by label.
        data: Folder or dataset by label.
        settings: Run settings.
        strips: Folder for the strips; None writes none.
        strips_of: Indices of each dataset's samples that get a strip.
    """

    methods: Mapping[str, MethodSource]
    data: Mapping[str, str | Path | SampleSource | None]
    settings: Settings
    strips: Path | None = None
    strips_of: Mapping[str, frozenset[int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._methods: dict[str, Method] = {}
        self._data: dict[str, SampleSource] = {}
        self._warm: set[str] = set()

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle only the sources; each process creates its own methods.

        An onnxruntime session cannot be pickled.
        """
        return Bench, (self.methods, self.data, self.settings, self.strips, self.strips_of)

    def method(self, label: str) -> Method:
        """Get the method with this label.

        Raises:
            ValueError: When the name or an option is unknown.
        """
        if label not in self._methods:
            self._methods[label] = _spec(label, self.methods[label])()
        return self._methods[label]

    def dataset(self, label: str) -> SampleSource:
        """Get the dataset with this label; its ``val`` split if it has splits."""
        if label not in self._data:
            source = self.data[label]
            self._data[label] = (
                _open(label, source) if source is None or isinstance(source, str | Path) else source
            )
        return self._data[label]

    def __call__(self, run: SampleRun) -> SampleRecord:
        """Run one sample and return its record; a failure is a record too."""
        data, label, condition, index = run
        record = SampleRecord(data, label, condition, index, f"#{index}")
        started = time.perf_counter()
        try:
            dataset, method = self.dataset(data), self.method(label)
            record = replace(record, name=dataset.name(index))
            sample = dataset.read(index)
            if label not in self._warm:
                self._warm.add(label)
                warm_up(method, sample)
                started = time.perf_counter()
            record, turns = run_sample(method, sample, record, self.settings)
            if self.strips is not None and index in self.strips_of.get(data, ()) and condition.is_exact:
                self._save_strip(draw_strip(sample.image, turns, num_turns=NUM_TURNS), record)
        except Exception as error:
            # one bad sample must not stop the run; the error is recorded and sets the exit code
            return replace(record, error=" ".join(f"{type(error).__name__}: {error}".split()))
        return replace(record, wall_seconds=time.perf_counter() - started)

    def _save_strip(self, strip: NDArray[np.uint8], record: SampleRecord) -> None:
        """Write a strip; if that fails, warn and keep the sample's result."""
        assert self.strips is not None
        try:
            save_strip(strip, strip_path(self.strips, record))
        except OSError as error:
            warnings.warn(f"the strip of {record.data} {record.name} is not written: {error}", stacklevel=2)


def warm_up(method: Method, sample: Sample) -> None:
    """Warm up with two clicks in the middle of the image, so that one-time costs are not timed."""
    middle = Click(sample.image.shape[0] // 2, sample.image.shape[1] // 2, radius=8.0)
    method.reset(sample.image)
    previous = method.predict(sample.image, [middle], None)
    method.predict(sample.image, [middle, replace(middle, positive=False)], previous)


def run_sample(
    method: Method, sample: Sample, record: SampleRecord, settings: Settings
) -> tuple[SampleRecord, list[Turn]]:
    """Run one method on one sample, click by click, until the target, the last click or a perfect mask.

    Args:
        method: Method to run.
        sample: Sample to segment.
        record: Record that names the sample and the condition.
        settings: Run settings.

    Returns:
        Record with clicks, IoUs and times, and the first steps, for drawing.

    Raises:
        ValueError: When the method does not return probabilities of the image's size.
    """
    mask, ignore = torch.from_numpy(sample.mask)[None], torch.from_numpy(sample.ignore)[None]
    user = SimulatedUser(
        mask,
        ignore,
        rule=settings.rule,
        prompt=settings.prompt,
        click_jitter=record.condition.click_jitter,
        radius_noise=record.condition.radius_noise,
        generator=torch.Generator().manual_seed(_seed_of(record)),
    )
    predictor = Predictor(method, threshold=settings.threshold)
    predictor.set_image(sample.image)
    encode_seconds = predictor.timings.total

    given: list[Click] = []
    clicks: tuple[Click, ...] = ()
    true_radii: list[float] = []
    ious: list[float] = []
    seconds: list[float] = []
    turns: list[Turn] = []
    pred: torch.Tensor | None = None
    while len(given) < settings.max_clicks:
        asked = user(pred, ClickBatch.from_clicks([clicks]))
        if asked.done.item():
            break
        (row, col), radius = asked.coords[0].tolist(), asked.radii.item()
        given.append(Click(row, col, bool(asked.labels.item() == 1), None if math.isnan(radius) else radius))
        prediction = predictor.predict(given)
        _check_finite(prediction.probs)
        clicks = prediction.clicks
        seconds.append(prediction.timings.total)
        pred = torch.from_numpy(prediction.mask)[None]
        true_radii.append(asked.true_radii.item())
        ious.append(iou(pred, mask, ignore).item())
        if len(turns) < NUM_TURNS:
            turns.append(Turn(clicks, prediction.mask, ious[-1]))
        if settings.target is not None and np.float32(ious[-1]) >= np.float32(settings.target):
            break
    if not ious:
        warnings.warn(
            f"{record.name}: nothing to segment; the empty prediction counts as IoU 1", stacklevel=2
        )
        ious = [1.0]
    made = tuple(
        ClickRecord(c.row, c.col, c.positive, c.radius, true)
        for c, true in zip(clicks, true_radii, strict=True)
    )
    size = (sample.mask.shape[0], sample.mask.shape[1])
    return replace(
        record,
        size=size,
        clicks=made,
        ious=tuple(ious),
        encode_seconds=encode_seconds,
        seconds=tuple(seconds),
    ), turns


def run_benchmark(
    methods: Mapping[str, MethodSource],
    data: Mapping[str, str | Path | SampleSource | None],
    *,
    prompt: Prompt,
    out: str | Path | None = None,
    max_clicks: int = 20,
    target: float | None = 0.9,
    full: bool = False,
    threshold: float = 0.5,
    rule: Rule = "max_distance",
    workers: int = 1,
    threads: int | None = None,
    seeds: Sequence[int] = (0,),
    click_jitter: float = 0.0,
    radius_noise: float = 0.0,
    limit: int | None = None,
    held_out: float = 0.0,
    num_strips: int = 20,
) -> Results:
    """Run each method on each dataset under the standard protocol.

    With a process group, or under ``torchrun``, the samples are shared among the ranks and every rank returns
    all results. With ``out``, each sample is written as soon as it finishes, and a second run resumes
    from there.

    Args:
        methods: By label, either the options of the registered method of that name, or a factory of the
            method (picklable for several workers).
        data: By label, either the folder of the registered dataset of that name, or a dataset.
        prompt: ``drag`` gives the method the radius of each click, ``click`` does not.
        out: Folder for the results and images.
        max_clicks: Maximum clicks per sample.
        target: IoU at which a sample is done.
        full: Continue to the last click or a perfect mask, for mIoU@k, AuC and curves; ignores ``target``.
        threshold: Probability above which a pixel counts as object.
        rule: Rule by which the simulated user chooses a click.
        workers: Number of processes on this machine.
        threads: Threads of torch and OpenCV per process; by default all cores are shared among the workers.
        seeds: Random seed of each robustness run.
        click_jitter: Maximum error of a click in pixels; each sample is run once without errors and once
            for each seed.
        radius_noise: Maximum relative error of a drag's radius; samples are run as for ``click_jitter``.
        limit: Number of samples per dataset, from the first; None runs all.
        held_out: Value of ``data.holdout`` in training; runs only the images held out by it. 0 runs all.
        num_strips: Number of samples per dataset and method that get a strip; only with ``out``.

    Returns:
        All records, including those of earlier runs in ``out``; a failed sample's record has an error.

    Raises:
        ValueError: When an option is invalid, or ``out`` contains a run with other settings.
        FileNotFoundError: When a folder is missing.
    """
    if not methods or not data:
        raise ValueError("a benchmark needs at least one method and one dataset")
    if radius_noise and prompt == "click":
        raise ValueError(
            "radius_noise changes the length of drags, but prompt 'click' has none; use prompt 'drag'"
        )
    for name, count in (
        ("workers", workers),
        ("max_clicks", max_clicks),
        ("limit", limit),
        ("threads", threads),
    ):
        if count is not None:
            check_number(name, count, least=1)
    check_number("num_strips", num_strips, least=0)
    for seed in seeds:
        check_number("seed", seed, least=0, whole=True)
    check_number("held_out", held_out, least=0, below=1, unit="a share of the images")
    check_number("threshold", threshold, above=0, below=1, unit="a probability")
    check_number("click_jitter", click_jitter, least=0, unit="a distance in pixels")
    check_number("radius_noise", radius_noise, least=0, below=1, unit="a share of the radius")
    if target is not None:
        check_number("target", target, above=0, most=1, unit="an IoU")
    settings = Settings(
        prompt, rule, threshold=threshold, max_clicks=max_clicks, target=None if full else target
    )
    folder = None if out is None else Path(out)
    threads = threads or (max(1, torch.get_num_threads() // workers) if workers > 1 else None)
    bench = Bench(methods, data, settings, None if folder is None else folder / "strips")
    ranks = Ranks.find()

    samples = {label: samples_of(bench.dataset(label), label, held_out)[:limit] for label in data}
    bench.strips_of = {label: frozenset(some[:num_strips]) for label, some in samples.items()}
    results = Results(
        settings,
        {label: _describe_method(bench.method(label), _spec(label, methods[label])) for label in methods},
        {label: _describe_data(bench.dataset(label), data[label], held_out) for label in data},
    )
    environment = describe_environment(threads=threads, workers=workers, ranks=ranks.size)
    exact = Condition()
    conditions = (
        [exact]
        if not (click_jitter or radius_noise)
        else [exact, *(Condition(click_jitter, radius_noise, s) for s in seeds)]
    )
    runs: list[SampleRun] = [
        (d, m, condition, index)
        for d in data
        for m in methods
        for condition in conditions
        for index in samples[d]
    ]
    with _locked_folder(folder, ranks):
        earlier = [] if folder is None else read_earlier(folder, results)
        for records in ranks.gather(earlier):
            results.absorb(records)
        done = {record.key for record in results.samples if record.error is None}
        left = [run for run in runs if run not in done]
        new: list[SampleRecord] = []
        header = {**results.header(), "runs": [*results.runs, environment]}
        journal = None if folder is None else Journal(folder, ranks.rank, header)
        try:
            for record in run_all(
                bench, left[ranks.rank :: ranks.size], workers=workers, threads=threads, show=ranks.rank == 0
            ):
                new.append(record)
                if journal is not None:
                    journal.add(record)
        finally:
            if journal is not None:
                journal.close()
        for [(records, used)] in ranks.gather([(new, environment)]):
            results.absorb(records)
            if records:
                results.runs.append(used)
        if folder is not None:
            if ranks.rank == 0:
                results.save(folder / RESULTS)
            for path in journals(folder) if ranks.rank == 0 else []:
                path.unlink()
    ranks.leave()
    return results


@contextmanager
def _locked_folder(folder: Path | None, ranks: Ranks) -> Iterator[None]:
    """Lock the folder of a run, on the first rank for all.

    Raises:
        ValueError: On every rank, when another run holds the lock.
    """
    with ExitStack() as stack:
        refused = []
        if folder is not None and ranks.rank == 0:
            try:
                stack.enter_context(lock_folder(folder, "dct-seg benchmark"))
            except ValueError as error:
                refused.append(str(error))
        for line in ranks.gather(refused)[0]:
            raise ValueError(line)
        yield


def _open(label: str, root: str | Path | None) -> SampleSource:
    splits = label in DATASETS and "split" in inspect.signature(DATASETS.get(label)).parameters
    return open_dataset(label, root, **({"split": "val"} if splits else {}))


def _spec(label: str, source: MethodSource) -> Callable[[], Method]:
    return source if callable(source) else MethodSpec(label, source)


def _describe_method(method: Method, spec: Callable[[], Method]) -> dict[str, Any]:
    """Describe a method: name, paper, options, and digests of its files and weights."""
    given = dict(spec.options) if isinstance(spec, MethodSpec) else {}
    # Without this, a class without ``options`` would mix runs with different options in one folder.
    options = {**method.options, **{name: given[name] for name in given if name not in method.options}}
    name = spec.name if isinstance(spec, MethodSpec) else getattr(method, "name", type(method).__name__)
    return {
        "method": name,
        "paper": getattr(method, "paper", ""),
        "options": {key: str(one) if isinstance(one, Path) else one for key, one in options.items()},
        "files": content_digests(method, {**options, **given}),
    }


def samples_of(dataset: SampleSource, label: str, held_out: float) -> list[int]:
    """List the samples to run by index: all, or those excluded by ``data.holdout`` ``held_out`` in training.

    Raises:
        ValueError: When none is held out.
    """
    if not held_out:
        return list(range(len(dataset)))
    found = [index for index in range(len(dataset)) if is_held_out(dataset.name(index), held_out)]
    if not found:
        raise ValueError(
            f"none of the {len(dataset)} samples of {label} is in the held-out share {held_out:g}; "
            "increase it"
        )
    return found


def _describe_data(
    dataset: SampleSource, source: str | Path | SampleSource | None, held_out: float
) -> dict[str, Any]:
    root = str(source) if isinstance(source, str | Path) else None
    share = {"held_out": held_out} if held_out else {}
    return {"kind": type(dataset).__name__, "root": root, "num_samples": len(dataset), **share}


def _seed_of(record: SampleRecord) -> int:
    """Derive the seed of a sample; it does not depend on process or order."""
    words = f"{record.condition.seed}/{record.data}/{record.index}"
    return int.from_bytes(hashlib.sha256(words.encode()).digest()[:7], "little")


def _check_finite(probs: NDArray[np.float32]) -> None:
    if not np.isfinite(probs).all():
        raise ValueError("the method must return probabilities in 0..1, got NaN or infinity")
