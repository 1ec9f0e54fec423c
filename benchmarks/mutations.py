"""Change one line of the library at a time, run its tests, and print what they let through.

    python benchmarks/mutations.py [--only oracles stl] [--jobs 2] [--out benchmarks/results/mutations.json]

Each file of `tests/mutations/` is a topic, a list of mutants:

    - file: ppvae/estimators/iwae.py
      what: forgets log K
      old: "log_weight.logsumexp(0) - math.log(len(log_weight))"     # occurs exactly once in the file
      new: "log_weight.logsumexp(0)"
      tests: [tests/test_estimators.py]                              # files or node ids; one must fail
      survives: why no test can see it                               # only where mathematics says so

The work is done in a copy of the checkout. The tests are first run unchanged. What becomes of a mutant:

killed      a test failed
explained   all passed, as `survives` says
survived    all passed
broken      it never came to a test's verdict: it does not compile, names what is not there, or stops pytest
invalid     its entry cannot be applied
untested    its tests fail unchanged, so their failing says nothing
revived     `survives` says that no test can see it, and one did
slow        its tests did not end in time

The exit status is 0 if all are killed or explained. Topics that were not asked for keep their records.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import queue
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

import yaml

ROOT = Path(__file__).resolve().parent.parent
FOLDER = Path("tests") / "mutations"
LIMIT = 900.0
"""Seconds that the tests of one mutant may take."""
RIGHT = ("killed", "explained")
NO_VERDICT = re.compile(
    r"^E\s+((?:Syntax|Indentation|Name|Import|ModuleNotFound|UnboundLocal)Error\b.*)$", re.M
)
"""A test that fails by one of these has judged the mutant's spelling, not what it computes."""

A = TypeVar("A")
R = TypeVar("R")


@dataclass(frozen=True)
class Mutant:
    """One change, and the tests that must not let it through."""

    topic: str
    file: str
    what: str
    old: str
    new: str
    tests: tuple[str, ...]
    survives: str | None = None


@dataclass(frozen=True)
class Verdict:
    """What became of a mutant; `by`: the test that killed it, or what is wrong."""

    mutant: Mutant
    status: str
    by: str = ""
    seconds: float = 0.0

    def line(self) -> str:
        told = self.mutant.survives if self.status == "explained" else self.by
        what = f"{self.status:9} {self.mutant.topic}: {self.mutant.file}: {self.mutant.what}"
        return f"{what} [{self.seconds:.0f} s]" + (f"\n          {told}" if told else "")


def mutants(root: Path, only: Iterable[str] = ()) -> tuple[list[Mutant], list[str]]:
    """The mutants of the topics asked for (all, if none is), and what is wrong with their files.

    Raises:
        SystemExit: a topic that does not exist.
    """
    topics = {path.stem: path for path in sorted((root / FOLDER).glob("*.yaml"))}
    if unknown := sorted(set(only) - set(topics)):
        raise SystemExit(f"no topic {unknown[0]!r}. There are: {', '.join(topics)}")
    found, wrong = [], []
    for topic in list(only) or topics:
        try:
            entries = yaml.safe_load(topics[topic].read_text(encoding="utf-8")) or []
        except yaml.YAMLError as error:
            wrong.append(f"{topics[topic].name}: {' '.join(str(error).split())}")
            continue
        if not isinstance(entries, list):
            wrong.append(f"{topics[topic].name}: is no list of mutants")
            continue
        for i, entry in enumerate(entries):
            if problem := _malformed(entry):
                wrong.append(f"{topics[topic].name}, entry {i + 1}: {problem}")
            else:
                found.append(Mutant(topic, **{**entry, "tests": tuple(entry["tests"])}))
    return found, wrong


def _malformed(entry: Any) -> str | None:
    """What is wrong with the form of an entry, None if nothing."""
    wanted = {"file", "what", "old", "new", "tests"}
    if not isinstance(entry, dict):
        return "is no mapping"
    if missing := sorted(wanted - set(entry)):
        return f"has no {missing[0]!r}"
    if further := sorted(set(entry) - wanted - {"survives"}):
        return f"has an unknown key {further[0]!r}"
    for key in ("file", "what", "old", "new", "survives"):
        if key in entry and not isinstance(entry[key], str):
            return f"{key!r} is no text"
        if key in entry and key != "new" and not entry[key].strip():
            return f"{key!r} is empty"
    tests = entry["tests"]
    if not isinstance(tests, list) or not tests or not all(isinstance(test, str) for test in tests):
        return "'tests' is no list of files or node ids"
    return None


def problem(mutant: Mutant, root: Path) -> str | None:
    """Why a mutant cannot be made or judged in `root`; None where it can."""
    path = root / mutant.file
    if Path(mutant.file).is_absolute() or ".." in Path(mutant.file).parts or not path.is_file():
        return f"there is no file {mutant.file}"
    times = path.read_text(encoding="utf-8").count(mutant.old)
    if times != 1:
        return f"its old text occurs {times} times in {mutant.file}, and must occur once"
    if mutant.old == mutant.new:
        return "it changes nothing"
    for test in mutant.tests:
        if not (root / test.partition("::")[0]).exists():
            return f"there is no test {test}"
    return None


def changed(mutant: Mutant, root: Path) -> str:
    """The text of the mutant's file."""
    return (root / mutant.file).read_text(encoding="utf-8").replace(mutant.old, mutant.new)


def copy(root: Path, into: Path) -> None:
    """What git tracks or would track of a checkout, without its history; symlinks stay symlinks."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=root, capture_output=True, check=True,
    )  # fmt: skip
    for name in sorted(set(listed.stdout.decode().split("\0")) - {""}):
        source, target = root / name, into / name
        if source.is_symlink() or source.is_file():  # not what is deleted and still tracked
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target, follow_symlinks=False)


def run(tests: Iterable[str], where: Path, limit: float = LIMIT) -> tuple[int | None, str]:
    """(pytest's exit status or None where it was too slow, its output)."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    # A stale .pyc of the same second and size would hide a mutant; an added flag could split the run.
    environment = os.environ | threads | {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": str(where)}
    environment.pop("PYTEST_ADDOPTS", None)
    command = [sys.executable, "-m", "pytest", "-x", "-q", "--tb=short", "-p", "no:cacheprovider", *tests]
    try:
        done = subprocess.run(
            command, cwd=where, env=environment, capture_output=True, text=True, timeout=limit, check=False
        )
    except subprocess.TimeoutExpired:
        return None, ""
    return done.returncode, done.stdout + done.stderr


def judge(mutant: Mutant, where: Path, limit: float = LIMIT) -> Verdict:
    """Change the copy at `where`, run the tests, change it back."""
    path, text = where / mutant.file, changed(mutant, where)
    if path.suffix == ".py":
        try:
            compile(text, mutant.file, "exec")
        except SyntaxError as error:
            return Verdict(mutant, "broken", f"SyntaxError: {error.msg} (line {error.lineno})")
    before, started = path.read_text(encoding="utf-8"), time.monotonic()
    path.write_text(text, encoding="utf-8")
    try:
        code, output = run(mutant.tests, where, limit)
    finally:
        path.write_text(before, encoding="utf-8")
    seconds = time.monotonic() - started
    status, by = reading(code, output, explained=mutant.survives is not None)
    return Verdict(mutant, status, by or (f"not in {limit:.0f} s" if code is None else ""), seconds)


def reading(code: int | None, output: str, explained: bool) -> tuple[str, str]:
    """(status, by what) of a mutant whose tests ended with this exit status and output."""
    if code is None:
        return "slow", ""
    if code == 0:
        return ("explained" if explained else "survived"), ""
    if code != 1 or (spelling := NO_VERDICT.search(output)):
        first = spelling.group(1) if code == 1 else _first_error(output)  # type: ignore[union-attr]
        return "broken", first or f"pytest ended with status {code}"
    test = re.search(r"^(?:FAILED|ERROR) (\S+)(?: - (.*))?$", output, re.M)
    return ("revived" if explained else "killed"), (test.group(0) if test else "")


def _first_error(output: str) -> str:
    found = re.search(r"^E\s+(\S.*)$", output, re.M) or re.search(r"^ERROR:? (.*)$", output, re.M)
    return found.group(1) if found else ""


def side_by_side(work: Callable[[A, Path], R], items: Iterable[A], copies: list[Path]) -> Iterable[R]:
    """`work(item, copy)` for each item, one at a time in each copy, in the items' order."""
    free: queue.Queue[Path] = queue.Queue()
    for path in copies:
        free.put(path)

    def one(item: A) -> R:
        where = free.get()
        try:
            return work(item, where)
        finally:
            free.put(where)

    with ThreadPoolExecutor(len(copies)) as pool:
        yield from pool.map(one, items)


def measure(root: Path, only: Iterable[str], jobs: int, say: Callable[[str], None]) -> list[Verdict]:
    """The verdict on every mutant of the topics."""
    found, wrong = mutants(root, only)
    for text in wrong:
        say(f"invalid   {text}")
    verdicts = [Verdict(Mutant("", "", text, "", "", ()), "invalid", text) for text in wrong]
    with tempfile.TemporaryDirectory(prefix="mutations") as scratch:
        copies = [Path(scratch) / str(i) for i in range(jobs)]
        for path in copies:
            copy(root, path)
        problems = {mutant: problem(mutant, copies[0]) for mutant in found}
        sound = [mutant for mutant, text in problems.items() if text is None]
        tests = sorted({test for mutant in sound for test in mutant.tests})
        unchanged = side_by_side(lambda test, where: run([test], where), tests, copies)
        red = {test: out for test, (code, out) in zip(tests, unchanged, strict=True) if code != 0}
        for test, output in red.items():
            say(f"red       {test} fails unchanged: {_first_error(output) or output.strip()[-200:]}")

        def one(mutant: Mutant, where: Path) -> Verdict:
            if text := problems[mutant]:
                return Verdict(mutant, "invalid", text)
            if failing := [test for test in mutant.tests if test in red]:
                return Verdict(mutant, "untested", f"{failing[0]} fails unchanged")
            return judge(mutant, where)

        for verdict in side_by_side(one, found, copies):
            say(verdict.line())
            verdicts.append(verdict)
    return verdicts


def record(verdicts: list[Verdict], out: Path, root: Path) -> None:
    """Write what was found, beside what the file says of the other topics that still exist."""
    topics = {path.stem for path in (root / FOLDER).glob("*.yaml")}
    before = json.loads(out.read_text(encoding="utf-8"))["topics"] if out.exists() else {}
    kept = {topic: entry for topic, entry in before.items() if topic in topics}
    for topic in {verdict.mutant.topic for verdict in verdicts} & topics:
        of_topic = [v for v in verdicts if v.mutant.topic == topic]
        kept[topic] = {
            "versions": versions(),
            "mutants": [
                {
                    "file": v.mutant.file,
                    "what": v.mutant.what,
                    "status": v.status,
                    "by": v.mutant.survives if v.status == "explained" else v.by,
                    "seconds": round(v.seconds, 1),
                }
                for v in of_topic
            ],
        }
    out.parent.mkdir(parents=True, exist_ok=True)
    scratch = out.with_suffix(".writing")
    scratch.write_text(json.dumps({"topics": kept}, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    scratch.replace(out)


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in ("ppvae", "torch", "pyro-ppl", "pytest"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # run from a checkout that is not installed
            continue
    return found


def main(argv: list[str] | None = None, root: Path = ROOT) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", default=[], metavar="TOPIC")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--out", type=Path, default=root / "benchmarks" / "results" / "mutations.json")
    options = parser.parse_args(argv)
    verdicts = measure(root, options.only, max(options.jobs, 1), lambda text: print(text, flush=True))
    record(verdicts, options.out, root)
    counts = Counter(verdict.status for verdict in verdicts)
    print(", ".join(f"{counts[status]} {status}" for status in dict.fromkeys([*RIGHT, *counts])))
    for verdict in verdicts:
        if verdict.status not in RIGHT:
            print(verdict.line())
    return 0 if all(verdict.status in RIGHT for verdict in verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
