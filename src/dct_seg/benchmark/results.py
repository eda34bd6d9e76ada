"""Benchmark results: one record per sample, the settings, and files that survive a kill."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from dct_seg.files import naming, write_whole
from dct_seg.registry import check_choice
from dct_seg.simulation import PROTOCOL_VERSION, Prompt, Rule

FORMAT_VERSION = 1
RESULTS, JOURNAL = "results.json", "journal.{rank}.jsonl"
_REMEDY = "move it away, or give another --out"


@dataclass(frozen=True)
class Settings:
    """Settings of a run besides methods and data.

    A run is resumed only with equal settings. Table 2 joins runs whose prompt and target differ.

    Args:
        prompt: ``drag`` gives the method the radius, ``click`` does not.
        rule: Rule by which the simulated user chooses a click.
        protocol_version: Version of the rules.
        threshold: Probability above which a pixel counts as object.
        max_clicks: Maximum clicks per sample.
        target: IoU at which a sample is done; None continues until the mask is perfect.
    """

    prompt: Prompt
    rule: Rule = "max_distance"
    protocol_version: int = PROTOCOL_VERSION
    threshold: float = 0.5
    max_clicks: int = 20
    target: float | None = 0.9

    def describe(self) -> str:
        """Describe the settings in one line, printed with every table.

        Examples:
            >>> Settings("drag").describe()
            'rule max_distance v1, prompt drag, threshold 0.5, at most 20 clicks, stopped at IoU 0.9'
        """
        end = "stopped when nothing is wrong" if self.target is None else f"stopped at IoU {self.target:g}"
        return (
            f"rule {self.rule} v{self.protocol_version}, prompt {self.prompt}, threshold {self.threshold:g}, "
            f"at most {self.max_clicks} clicks, {end}"
        )


@dataclass(frozen=True)
class Condition:
    """Errors of the simulated user.

    Args:
        click_jitter: Maximum distance in pixels from the rule's own click, inside the same wrong region.
        radius_noise: Relative noise F of a given radius, uniform in 1 - F .. 1 + F.
        seed: Random seed; 0 without randomness.
    """

    click_jitter: float = 0.0
    radius_noise: float = 0.0
    seed: int = 0

    @property
    def is_exact(self) -> bool:
        """Whether the clicks have no noise."""
        return not self.click_jitter and not self.radius_noise

    @property
    def label(self) -> str:
        """Description without the seed; empty for exact clicks."""
        parts = [f"jitter {self.click_jitter:g} px"] * bool(self.click_jitter) + [
            f"radius noise {self.radius_noise:g}"
        ] * bool(self.radius_noise)
        return ", ".join(parts)


@dataclass(frozen=True)
class ClickRecord:
    """Record of a click: position in pixels, sign, radius used by the method (or None) and true radius."""

    row: float
    col: float
    positive: bool
    radius: float | None
    true_radius: float


@dataclass(frozen=True)
class SampleRecord:
    """Record of one sample with one method.

    Args:
        data: Label of the dataset.
        method: Label of the method.
        condition: Errors of the simulated user.
        index: Index of the sample in its dataset.
        name: Name of the sample, unique in its dataset.
        size: Height and width of the image in pixels.
        clicks: Clicks in order.
        ious: IoU after each click.
        encode_seconds: Time of ``reset``.
        seconds: Time of the method after each click.
        wall_seconds: Total time of the sample, including reading, clicks, IoU and writing.
        error: Reason for a missing result, in one line; None if there is a result.
    """

    data: str
    method: str
    condition: Condition
    index: int
    name: str
    size: tuple[int, int] = (0, 0)
    clicks: tuple[ClickRecord, ...] = ()
    ious: tuple[float, ...] = ()
    encode_seconds: float = 0.0
    seconds: tuple[float, ...] = ()
    wall_seconds: float = 0.0
    error: str | None = None

    @property
    def key(self) -> tuple[str, str, Condition, int]:
        """Key that identifies a record within a run."""
        return self.data, self.method, self.condition, self.index

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> SampleRecord:
        """Restore a record from the JSON of ``asdict``.

        Raises:
            LookupError, TypeError, ValueError: When the JSON does not describe a record.
        """
        height, width = values["size"]
        ious = tuple(float(iou) for iou in values["ious"])
        if not all(0 <= iou <= 1 for iou in ious):
            raise ValueError(f"an IoU must be between 0 and 1, got {values['ious']}")
        if not isinstance(values["index"], int):
            raise TypeError(f"index must be a whole number, got {values['index']!r}")
        return cls(
            **{
                **values,
                "condition": Condition(**values["condition"]),
                "clicks": tuple(ClickRecord(**click) for click in values["clicks"]),
                "size": (int(height), int(width)),
                "ious": ious,
                "seconds": tuple(float(second) for second in values["seconds"]),
            }
        )


@dataclass
class Results:
    """All records of a run, with settings and environment.

    Args:
        settings: Settings shared by all records.
        methods: Registered name, paper and options by label.
        data: Kind, root and number of samples by label.
        runs: Versions, machine, threads and time of each run, once per rank; only those with a record.
        samples: Records ordered by dataset, method, condition and index.
    """

    settings: Settings
    methods: dict[str, dict[str, Any]]
    data: dict[str, dict[str, Any]]
    runs: list[dict[str, Any]] = field(default_factory=list)
    samples: list[SampleRecord] = field(default_factory=list)

    @property
    def failed(self) -> list[SampleRecord]:
        """Records of the samples that failed."""
        return [record for record in self.samples if record.error is not None]

    def select(
        self, data: str, method: str, conditions: Iterable[Condition] | None = None
    ) -> list[SampleRecord]:
        """Select the records with a result of one method on one dataset; by default with exact clicks."""
        wanted = {Condition()} if conditions is None else set(conditions)
        return [
            r
            for r in self.samples
            if r.error is None and (r.data, r.method) == (data, method) and r.condition in wanted
        ]

    def absorb(self, records: Iterable[SampleRecord]) -> None:
        """Add records; of two with the same key, keep the one with a result, otherwise the later one."""
        table = {record.key: record for record in self.samples}
        for record in records:
            if record.error is None or record.key not in table or table[record.key].error is not None:
                table[record.key] = record
        order = {label: i for i, label in enumerate([*self.data, *self.methods])}
        last = len(order)

        def place(record: SampleRecord) -> tuple[Any, ...]:
            c = record.condition
            return (
                order.get(record.data, last),
                order.get(record.method, last),
                c.click_jitter,
                c.radius_noise,
                c.seed,
                record.index,
            )

        self.samples = sorted(table.values(), key=place)

    def header(self) -> dict[str, Any]:
        """Convert everything except the samples to plain values."""
        return {
            "settings": asdict(self.settings),
            "methods": self.methods,
            "data": self.data,
            "runs": self.runs,
        }

    def merge_header(self, other: dict[str, Any], where: str) -> None:
        """Merge methods, datasets and runs of an earlier header.

        Raises:
            ValueError: When the earlier run has other settings, or its methods have other options.
        """
        theirs, ours = other["settings"], asdict(self.settings)
        for name, value in ours.items():
            if theirs.get(name) != value:
                raise ValueError(
                    f"{where} contains a run with {name} {theirs.get(name)}, but this run has {name} "
                    f"{value}; give another --out"
                )
        for noun, old, new in (
            ("method", other["methods"], self.methods),
            ("dataset", other["data"], self.data),
        ):
            for label, description in old.items():
                changed = _difference(description, new.get(label, description))
                if changed:
                    raise ValueError(
                        f"{where} contains a run of {noun} {label} with {changed}; give another --out or "
                        "another label"
                    )
                new.setdefault(label, description)
        self.runs += [run for run in other["runs"] if run not in self.runs]

    def save(self, path: Path) -> None:
        """Write everything to one file, atomically."""
        samples = ",\n".join(json.dumps(asdict(record)) for record in self.samples)
        header = json.dumps({"format": FORMAT_VERSION, **self.header()}, indent=1).removesuffix("\n}")
        write_whole(path, f'{header},\n "samples": [\n{samples}\n]}}\n')


def load_results(path: str | Path) -> Results:
    """Read the results of a file or of a benchmark's folder.

    Raises:
        FileNotFoundError: When the file does not exist.
        ValueError: When the file has another format.
    """
    path = Path(path)
    file = path / RESULTS if path.is_dir() else path
    if not file.is_file():
        raise FileNotFoundError(f"no {file}; `dct-seg benchmark --out {path}` writes one when it finishes")
    with naming(f"{file} is not a results file of dct-seg benchmark", _REMEDY):
        content = json.loads(file.read_bytes())
        version = content["format"]
    if version != FORMAT_VERSION:
        raise ValueError(
            f"{file} has format {version}, but this dct-seg reads format {FORMAT_VERSION}; run the "
            "benchmark again"
        )
    with naming(f"{file} is not a results file of dct-seg benchmark", _REMEDY):
        samples = [SampleRecord.from_dict(values) for values in content["samples"]]
        _check_header(content)
        known = {f.name for f in fields(Settings)}
        settings = Settings(**{name: value for name, value in content["settings"].items() if name in known})
        return Results(settings, content["methods"], content["data"], content["runs"], samples)


class Journal:
    """JSON Lines file with a header and one record per finished sample.

    A kill leaves at most one incomplete line, which is removed when the file is next opened.
    """

    def __init__(self, folder: Path, rank: int, header: dict[str, Any]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / JOURNAL.format(rank=rank)
        if path.exists():
            content = path.read_bytes()
            with path.open("r+b") as torn:
                torn.truncate(content.rfind(b"\n") + 1)
        self._file = path.open("a", encoding="utf-8")
        self._header: dict[str, Any] | None = header

    def add(self, record: SampleRecord) -> None:
        """Write one record, the first one after the header, and flush it to disk."""
        if self._header is not None:
            self._write({"header": self._header})
            self._header = None
        self._write({"sample": asdict(record)})

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _write(self, line: dict[str, Any]) -> None:
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()


def read_earlier(folder: Path, results: Results) -> list[SampleRecord]:
    """Read the records of earlier runs in a folder, and merge their headers into ``results``.

    Raises:
        ValueError: When an earlier run has other settings.
    """
    records: list[SampleRecord] = []
    if (folder / RESULTS).is_file():
        earlier = load_results(folder)
        results.merge_header(earlier.header(), str(folder))
        records += earlier.samples
    for path in journals(folder):
        whole, _, _ = path.read_bytes().rpartition(b"\n")  # an incomplete line after a kill
        for number, line in enumerate(whole.split(b"\n") if whole else [], start=1):
            with naming(f"line {number} of {path} is not a line of a benchmark's journal", _REMEDY):
                entry = json.loads(line)
                if "header" in entry:
                    _check_header(entry["header"])
                elif number == 1:
                    raise ValueError("it has no header")
                else:
                    records.append(SampleRecord.from_dict(entry["sample"]))
            if "header" in entry:
                results.merge_header(entry["header"], str(folder))
    return records


def _check_header(header: dict[str, Any]) -> None:
    """Check that a header can be merged and shown.

    Raises:
        LookupError, TypeError, ValueError: When the header is invalid.
    """
    settings = header["settings"]
    check_choice("prompt", settings["prompt"], get_args(Prompt))
    check_choice("rule", settings["rule"], get_args(Rule))
    numbers = [settings["threshold"], settings["max_clicks"], settings["protocol_version"]]
    numbers += [] if settings["target"] is None else [settings["target"]]
    if not all(math.isfinite(number) for number in numbers):
        raise ValueError("the settings contain a number that is not finite")
    for name in ("methods", "data"):
        for described in dict(header[name]).values():
            if not isinstance(described, dict):
                raise TypeError(f"each entry of {name} must be a mapping, got {described!r}")
    if not isinstance(header["runs"], list):
        raise TypeError(f"runs must be a list, got {header['runs']!r}")


def journals(folder: Path) -> list[Path]:
    """List the journals of all ranks in a folder."""
    return sorted(folder.glob(JOURNAL.format(rank="*")))


def iou_table(records: Sequence[SampleRecord], max_clicks: int) -> Tensor:
    """Make the table of IoUs, (n, ``max_clicks``) float64: one run per row, NaN after its end.

    The functions in ``dct_seg.metrics`` take such a table.
    """
    table = torch.full((len(records), max_clicks), torch.nan, dtype=torch.float64)
    for row, record in zip(table, records, strict=True):
        row[: len(record.ious)] = torch.tensor(record.ious, dtype=torch.float64)
    return table


def _plain(value: Any) -> Any:
    """Round-trip a value through JSON."""
    return json.loads(json.dumps(value))


def _difference(old: dict[str, Any], new: dict[str, Any]) -> str:
    """Describe the differences between two descriptions of a method or dataset; a folder may have moved."""
    old, new = (
        {
            **d,
            **d.get("options", {}),
            **{f"contents of {name}": digest for name, digest in d.get("files", {}).items()},
        }
        for d in (_plain(old), _plain(new))
    )
    names = sorted({*old, *new} - {"options", "files", "root"})
    return ", ".join(
        f"{name} {old.get(name, 'not recorded')} (now {new.get(name, 'not recorded')})"
        for name in names
        if old.get(name) != new.get(name)
    )
