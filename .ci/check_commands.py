"""Run every documented command with an installed package, outside the source tree.

  python -P .ci/check_commands.py [DOCUMENT ...]

Each document gets an empty folder with tiny datasets in their true layout. Its commands run there in
order and unchanged, except for options that make them short: layouts.TINY_RUN for training, --limit and
--max-clicks for a benchmark, --dry-run for a sweep, a free port for a server. A program without a rule, a
command that does not exist and one that takes more than ten minutes are errors.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import urllib.request
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import metadata
from itertools import pairwise
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY / ".ci"))

import layouts  # noqa: E402
from documented import Documented, commands  # noqa: E402

import dct_seg  # noqa: E402
from dct_seg import adapters  # noqa: E402
from dct_seg.cli import COMMANDS, main  # noqa: E402
from dct_seg.configurations import find  # noqa: E402

PHRASES = {
    "dct-seg benchmark --weights": "dct-seg benchmark --weights dct-lite0 --data Shapes --prompt click",
    "dct-seg benchmark --held-out 0.2 --limit 20 --target 0.9": (
        "dct-seg benchmark --held-out 0.2 --limit 20 --target 0.9 --data Folder=DIR --prompt drag"
    ),
    "dct-seg export --format onnx": "dct-seg export dct-lite0 --format onnx --out exported",
    "dct-seg sweep FILE": "dct-seg sweep configs/sweeps/sigma.yaml",
    "wandb sweep FILE": "wandb sweep configs/sweeps/sigma.yaml",
}
"""Commands that are incomplete in a sentence, with their complete form."""


class Servers:
    """Servers that a document started, which its later commands find at the documented address."""

    def __init__(self) -> None:
        self.addresses: dict[str, str] = {}
        self._running: list[tuple[str, subprocess.Popen[str]]] = []

    def start(self, words: list[str]) -> None:
        """Start a server on a free port and wait until it responds."""
        if words[1] == "annotate":
            self.stop()  # a folder has one annotator at a time
        quiet = ["--no-browser"] if words[1] == "annotate" else []
        environment = os.environ | {
            "LABEL_STUDIO_URL": "http://localhost:8080",
            "LABEL_STUDIO_API_KEY": "key",
            "PYTHONUNBUFFERED": "1",
        }
        program = Path(sys.executable).with_name("dct-seg") if shutil.which("dct-seg") is None else "dct-seg"
        process = subprocess.Popen(
            [program, *words[1:], "--port", "0", *quiet],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
        )
        self._running.append((" ".join(words), process))
        said = ""
        assert process.stdout is not None
        for line in process.stdout:
            said += line
            if found := re.search(r"http://\S+", line):
                break
        else:
            raise AssertionError(f"it ended with exit code {process.wait()}\n{said}")
        address = found[0]
        path = "health" if words[1] == "label-studio" else ""
        with urllib.request.urlopen(address + path, timeout=60) as answer:
            assert answer.status == 200, answer.status
        self.addresses["http://127.0.0.1:8766"] = re.match(r"http://[^/]+", address)[0]  # type: ignore[index]

    def stop(self) -> None:
        """Stop all servers. One that does not end after SIGTERM is an error."""
        running, self._running = self._running, []
        self.addresses.clear()
        for _, process in running:
            process.send_signal(signal.SIGTERM)
        for name, process in running:
            try:
                process.communicate(timeout=60)
            except subprocess.TimeoutExpired:
                process.kill()
                raise AssertionError(f"{name} still runs after SIGTERM") from None
            assert process.returncode in (0, 143), f"{name} ended with exit code {process.returncode}"


SERVERS = Servers()


def run_main(words: list[str]) -> None:
    """Run a ``dct-seg`` command in this process, because starting Python takes longer than most of them."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            code = main(words[1:])
        except SystemExit as left:
            code = left.code
    if code in (130, 143):
        raise KeyboardInterrupt
    assert code == 0, f"exit code {code}\n{said.getvalue()[-3000:]}"


def fit(words: list[str]) -> None:
    """Train for one batch. Weights named in the configuration keep their network."""
    starts_from_weights = any("finetune" in word for word in words)
    run_main([*words, *layouts.tiny_run(with_network=not starts_from_weights)])


def benchmark(words: list[str]) -> None:
    """Measure one sample with two clicks; ``compare`` and ``table2`` run unchanged."""
    short = (
        []
        if words[2] in ("compare", "table2")
        else ["--limit=1", "--max-clicks=2", "--strips=1", "--threads=1"]
    )
    run_main([*words, *short])


EXPORTS: dict[str, Path] = {}
"""Folder with the result of each export command, without its own folder."""


def export(words: list[str]) -> None:
    """Export a tiny network instead of the shipped one, whose graphs take minutes (tests/test_export.py).

    Even that takes a minute, so a command that ran before, for another document, gets a copy.
    """
    words = ["a.ckpt" if word == "dct-lite0" else word for word in words]
    place = words.index("--out")
    out, rest = words[place + 1], " ".join(words[:place] + words[place + 2 :]).replace(" --format onnx", "")
    if rest in EXPORTS:
        shutil.copytree(EXPORTS[rest], out)
    else:
        run_main(words)
        EXPORTS[rest] = Path(out).resolve()


def sweep(words: list[str]) -> None:
    """List the trials."""
    place = words.index("--") if "--" in words else len(words)
    run_main([*words[:place], "--dry-run", *words[place:]])


DCT_SEG: dict[str, Callable[[list[str]], None]] = {
    "annotate": SERVERS.start,
    "benchmark": benchmark,
    "export": export,
    "fit": fit,
    "label-studio": SERVERS.start,
    "serve": SERVERS.start,
    "sweep": sweep,
}
"""Commands that are shortened, or that serve until stopped. All others run unchanged."""

KNOWN = {"--help", "--version", *(command.name for command in COMMANDS)}


def ours(one: Documented) -> None:
    """Run a command of this package; a bare name in a sentence must be that of a command."""
    if _is_mention(one):
        return
    tiny = ["--weights", "exported"] if "--backend" in one.words else []  # of the document's export
    DCT_SEG.get(one.words[1], run_main)([SERVERS.addresses.get(word, word) for word in [*one.words, *tiny]])


def pip(one: Documented) -> None:
    """Check that the package has the named extras."""
    named = {extra for word in one.words for extra in re.findall(r"^(?:dct-seg|\.)\[(.+)\]$", word)}
    extras = {extra for group in named for extra in group.split(",")}
    assert extras <= set(metadata("dct-seg").get_all("Provides-Extra") or ()), extras


def source_tree(one: Documented) -> None:
    """Check that the files and modules exist, for commands that need the source tree."""
    for before, word in zip(["", *one.words], one.words, strict=False):
        if before == "-m" and one.words[0] == "python" and word not in ("venv", "build"):
            module = REPOSITORY / word.replace(".", "/")
            assert module.with_suffix(".py").is_file() or (module / "__main__.py").is_file(), word
        elif re.match(r"(?:\.ci|tests|notebooks|docs/examples)/", word):
            assert (REPOSITORY / word).is_file(), word


def client(one: Documented) -> None:
    """Run a client of ``dct-seg serve``, or check that the program exists in the source tree."""
    source_tree(one)
    if not any(word in SERVERS.addresses for word in one.words):
        return
    words = [SERVERS.addresses.get(word, word) for word in one.words]
    words[1] = str(REPOSITORY / words[1])
    program = shutil.which("node") if words[0] == "node" else sys.executable
    if program is None:
        print("  no node: its client is SKIPPED")
        return
    done = subprocess.run([program, *words[1:]], capture_output=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    assert done.stdout.startswith(b"\x89PNG"), done.stdout[:200]


def cvat(one: Documented) -> None:
    """Check that the module has the interface of CVAT's agent."""
    assert callable(import_module(one.words[one.words.index("--function-module") + 1]).create)


def nuctl(one: Documented) -> None:
    """Check that the folder to deploy was written."""
    folder = Path(one.words[one.words.index("--path") + 1])
    assert (folder / "function.yaml").is_file(), folder


def napari(one: Documented) -> None:
    """Check that the manifest of the plugin is in the package."""
    assert Path(adapters.__file__).with_name("napari.yaml").is_file()


def wandb(one: Documented) -> None:
    """Check that the sweep file is in the package, or was written by the command before."""
    if one.words[1:2] == ["sweep"]:
        assert find(one.words[2]).is_file()


RULES: dict[str, Callable[[Documented], None]] = {
    "bash": source_tree,
    "cd": source_tree,
    "cvat-cli": cvat,
    "dct-seg": ours,
    "git": source_tree,
    "mkdocs": source_tree,
    "napari": napari,
    "node": client,
    "npm": source_tree,
    "nuctl": nuctl,
    "pip": pip,
    "pre-commit": source_tree,
    "pytest": source_tree,
    "python": client,
    "ruff": source_tree,
    "source": source_tree,
    "twine": source_tree,
    "unzip": source_tree,
    "wandb": wandb,
}


def filled(words: list[str]) -> list[str]:
    """Replace the placeholders of the documents, and an ellipsis by the omitted folders."""
    named = [word for before, word in pairwise(words) if before in ("--config", "--base")]
    more = layouts.unions(find(name.replace("ROW", "fca_net")) for name in named)

    def fill(word: str) -> str:
        named = re.findall(r"DATA/(\w+)", word)
        rest = "".join(f", DATA/{name}: 0.5" for name in more if name not in named)
        return word.replace(", …", rest).replace("ROW", "fca_net").replace("/path/to/SBD", "SBD")

    return [fill(word) for word in words]


def rule_of(one: Documented) -> Callable[[Documented], None]:
    """The rule of a command.

    Raises:
        LookupError: When it has none.
    """
    program, *rest = one.words
    if program not in RULES or (program == "dct-seg" and rest[0] not in KNOWN):
        raise LookupError(
            f"{one.place}: no rule for `{' '.join(one.words)}` in .ci/check_commands.py; add one"
        )
    return RULES[program]


def completed(one: Documented) -> Documented:
    """Complete the command: phrases completed, placeholders filled."""
    phrase = PHRASES.get(" ".join(one.words)) if one.is_inline else None
    return one._replace(words=filled(phrase.split() if phrase else one.words))


def _is_mention(one: Documented) -> bool:
    """Whether it is the name of a command in a sentence."""
    return one.is_inline and len(one.words) == 2 and one.words[1] not in ("--help", "--version", "list")


def check() -> int:
    """Run the documents given, or all."""
    home = Path(dct_seg.__file__).parent
    assert not home.is_relative_to(REPOSITORY), f"this is {home}, not an installed wheel"
    os.environ |= {"WANDB_MODE": "offline", "HF_HUB_OFFLINE": "1", "MPLBACKEND": "agg"}
    found = commands(REPOSITORY)
    assert len(found) > 150, "few commands were found; did the documents change their format?"
    failures = []
    with tempfile.TemporaryDirectory() as work:
        layouts.example_packages(Path(work) / "packages", REPOSITORY / "tests")
        template = Path(work) / "template"
        layouts.everything(template)
        seen: set[str] = set()
        for document in dict.fromkeys(one.place for one in found):
            if sys.argv[1:] and document not in sys.argv[1:]:
                continue
            folder = Path(work) / document
            shutil.copytree(template, folder)
            os.chdir(folder)
            if document == "CONTRIBUTING.md":
                layouts.side_by_side(Path("DIR"))
            here = [completed(one) for one in found if one.place == document]
            for before, word in (pair for one in here for pair in pairwise(one.words)):
                if before == "--out":  # made by this document, so it must not exist yet
                    shutil.rmtree(word, ignore_errors=True)
            for one in here:
                text, start = " ".join(one.words), time.perf_counter()
                if text in seen and (one.is_inline or one.words[:2] == ["dct-seg", "annotate"]):
                    continue
                seen.add(text)
                signal.alarm(600)  # ends the check: a command that serves needs a rule that stops it
                try:
                    rule_of(one)(one)
                except Exception:
                    failures.append(f"{document}: {text}\n{traceback.format_exc(limit=-2)}")
                    print(f"FAILED {failures[-1]}", flush=True)
                else:
                    print(f"{time.perf_counter() - start:5.1f} s  {document}: {text}", flush=True)
            signal.alarm(0)
            try:
                SERVERS.stop()
            except AssertionError as error:
                failures.append(f"{document}: {error}")
            os.chdir(work)
    print(f"{len(found)} documented commands, {len(failures)} failed")
    for failure in failures:
        print(failure)
    return bool(failures)


if __name__ == "__main__":
    sys.exit(check())
