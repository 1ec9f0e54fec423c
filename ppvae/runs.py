"""The folder of one training run: what was run, on what, and what came of it.

    runs/<pair>-<data>-<estimator>-<time>-<hex>/{config.yaml, env.json, metrics.jsonl, log.txt,
                                                 checkpoints/, figures/, .lock}
    runs/latest -> the newest of them

Anyone may read a run at any time. Whoever writes holds its lock, which names the writer's process and dies
with it; `Run.open(path)` takes the lock at the first write, `Run.open(path, write=True)` at once. This file
knows no training and imports no torch, so that reading a run is quick.
"""

from __future__ import annotations

import json
import math
import os
import platform
import re
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ppvae.errors import RunError, nearest

CONFIG, ENV, METRICS, LOG = "config.yaml", "env.json", "metrics.jsonl", "log.txt"
LOCK, LATEST = ".lock", "latest"
_NOT_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


class Run:
    """A run folder, from `Run.create` or `Run.open`. As a context manager it gives up its lock at the end."""

    def __init__(self, path: Path):
        self.path = path
        self._lock: _Lock | None = None

    @classmethod
    def create(
        cls, root: str | Path, pair_name: str, data_name: str, estimator_name: str, config: Mapping[str, Any]
    ) -> Run:
        """Make a run folder under `root`, take its lock and point `latest` at it.

        Args:
            config: the resolved options, of plain values; written as config.yaml.

        Raises:
            RunError: the folder cannot be written, or the options are no plain values.
        """
        root = Path(root)
        text = _yaml(config)
        latest = root / LATEST
        try:
            root.mkdir(parents=True, exist_ok=True)
            if latest.is_dir() and not latest.is_symlink():
                raise RunError(f"{latest} is a folder and no link: rename it, it names the newest run")
            run = cls(_new_folder(root, "-".join(map(_slug, (pair_name, data_name, estimator_name)))))
            try:
                run._fill(text)
                _point(latest, run.name)
            except BaseException:
                run.close()
                shutil.rmtree(run.path, ignore_errors=True)
                raise
        except OSError as error:
            reason = error.strerror or error
            raise RunError(f"no run folder can be made in {root} ({reason}): use another --out") from error
        return run

    def _fill(self, config: str) -> None:
        self._take_lock()
        for folder in (self.checkpoints, self.figures):
            folder.mkdir()
        for name in (METRICS, LOG):
            (self.path / name).touch()
        self.write_json(ENV, environment())
        _replace(self.path / CONFIG, config.encode())  # last: it makes the folder a run

    @classmethod
    def open(cls, path: str | Path, write: bool = False, root: str | Path = "runs") -> Run:
        """Open a run by its path, by its name under `root`, or as `latest`.

        Args:
            write: take the lock now, so that a run that cannot be written is refused before any work is done.

        Raises:
            RunError: no such run (the nearest name is suggested), a folder that is no run, or with `write`
                one that is read-only or in use by another process.
        """
        run = cls(_find(Path(path), Path(root)))
        for name in (CONFIG, ENV):
            if not (run.path / name).is_file():
                raise RunError(f"{run.path} is no run folder, it has no {name}: give one of `ppvae train`")
        if write:
            run._take_lock()
        return run

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints, for `ppvae.checkpoint`."""
        return self.path / "checkpoints"

    @property
    def figures(self) -> Path:
        return self.path / "figures"

    @property
    def config(self) -> dict[str, Any]:
        """The options of the run. Only plain values are read: a tag that names a class is an error."""
        import yaml

        file = self.path / CONFIG
        try:
            found = yaml.safe_load(file.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
            line = " ".join(str(error).split())
            raise RunError(f"{file} cannot be read ({line}): restore it, or train again") from error
        if not isinstance(found, dict):
            raise RunError(f"{file} holds no options: restore it, or train again")
        return found

    @property
    def env(self) -> dict[str, Any]:
        """What the run was made on: versions, platform, device."""
        return self.read_json(ENV)

    def log_metrics(self, step: int, **values: Any) -> None:
        """Append one line to metrics.jsonl, at once and whole.

        Args:
            values: numbers (Python's, numpy's or 0-dim tensors), texts, None, and lists and dicts of them.
                JSON has no NaN and no infinity: they are written as "NaN", "Infinity" and "-Infinity", and
                read back as numbers.

        Raises:
            RunError: a value of another kind, a full disk, or a run that another process is writing to.
        """
        self._take_lock()
        line = json.dumps(_plain({"step": step, **values}, "metrics"), allow_nan=False)
        _append(self.path / METRICS, line)

    def metrics(self) -> list[dict[str, Any]]:
        """All lines of metrics.jsonl, oldest first. A half-written last line is skipped.

        Raises:
            RunError: a line that is damaged, by its number.
        """
        file = self.path / METRICS
        entries = []
        lines = file.read_bytes().split(b"\n") if file.exists() else []
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                entry = json.loads(line)
                if not isinstance(entry, dict):
                    raise ValueError("no JSON object")
            except (ValueError, RecursionError) as error:
                if number == len(lines):  # no newline after it: its writer was stopped
                    break
                raise RunError(f"{file}, line {number} is damaged ({error}): delete that line") from error
            entries.append({key: _number(value) for key, value in entry.items()})
        return entries

    def drop_metrics_after(self, step: int) -> None:
        """Forget lines of later steps: a run that goes on from a checkpoint writes them again."""
        self._take_lock()
        kept = [json.dumps(_plain(e, "metrics")) for e in self.metrics() if e.get("step", -1) <= step]
        _replace(self.path / METRICS, "".join(f"{line}\n" for line in kept).encode())

    def log(self, text: str) -> None:
        """Append `text` to log.txt, with the time."""
        self._take_lock()
        _append(self.path / LOG, f"{time.strftime('%Y-%m-%d %H:%M:%S')}  {text}")

    def write_json(self, name: str, value: Any) -> Path:
        """Write a JSON file into the run, whole or not at all; NaN and infinities as `log_metrics` does."""
        file = self.path / name
        if Path(name).name != name or name in (CONFIG, METRICS, LOG, LOCK):
            raise RunError(f"{name!r} is no name for a JSON file of a run: use one such as evaluation.json")
        _replace(file, (json.dumps(_plain(value, name), indent=2, allow_nan=False) + "\n").encode())
        return file

    def read_json(self, name: str) -> Any:
        """What `write_json` wrote. Raises RunError where it is missing or damaged."""
        file = self.path / name
        try:
            return _number(json.loads(file.read_bytes()))
        except (OSError, ValueError, RecursionError) as error:
            raise RunError(f"{file} cannot be read ({error}): restore it, or make it again") from error

    def close(self) -> None:
        """Give up the lock, if this run holds it."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    def _take_lock(self) -> None:
        if self._lock is not None and self._lock.pid == os.getpid():
            return
        self._lock = _Lock.take(self.path)
        _repair(self.path / METRICS)


class _Lock:
    """A lock that the system takes back when its process ends, however it ends; without fcntl there is none.

    A POSIX lock and no flock: a forked data worker that outlives its parent must not go on holding it. It
    never locks its own process out, so the runs of one process share one lock, and one handle: closing any
    other handle of the file would unlock it.
    """

    _held: dict[str, _Lock] = {}  # noqa: RUF012  by folder, shared on purpose

    def __init__(self, folder: Path):
        self.pid, self.key, self.users = os.getpid(), str(folder.resolve()), 1
        try:
            self.handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise RunError(f"{folder} cannot be written ({error.strerror}): make it writable") from error
        try:
            self._take(folder)
        except BaseException:
            os.close(self.handle)
            raise
        self._held[self.key] = self

    @classmethod
    def take(cls, folder: Path) -> _Lock:
        own = cls._held.get(str(folder.resolve()))
        if own is None or own.pid != os.getpid():  # a forked child does not hold its parent's locks
            return cls(folder)
        own.users += 1
        return own

    def _take(self, folder: Path) -> None:
        if sys.platform == "win32":
            return
        import fcntl

        try:
            fcntl.lockf(self.handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            holder = os.read(self.handle, 32).decode(errors="replace").strip() or "unknown"
            raise RunError(f"{folder} is in use by process {holder}: wait for it, or stop it") from error
        except OSError as error:
            raise RunError(f"{folder} cannot be locked ({error.strerror}): use a local disk") from error
        os.ftruncate(self.handle, 0)
        os.write(self.handle, f"{self.pid}\n".encode())

    def release(self) -> None:
        if self.pid != os.getpid():
            return
        self.users -= 1
        if not self.users:
            self._held.pop(self.key, None)
            os.ftruncate(self.handle, 0)
            os.close(self.handle)


def environment() -> dict[str, Any]:
    """Versions, platform, device and git commit; nothing that names the machine, its user or a path."""
    import torch

    from ppvae.checkpoint import versions

    cuda = torch.cuda.is_available()
    return {
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "versions": versions(),
        "platform": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpu": _processor(),
        "cpu_count": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if cuda else "cpu",
        "cuda": torch.version.cuda if cuda else None,
        "commit": _commit(),
    }


def _processor() -> str:
    try:
        names = re.findall(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()


def _commit() -> str | None:
    """The commit of the folder that the run was started in, with `-dirty` where files differ from it."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None


# ---- names


def _slug(name: str) -> str:
    """A name within a file name: `my/pairs.py:PAIR` becomes pairs.py_PAIR."""
    last = re.split(r"[/\\]", name.rstrip("/\\"))[-1]
    return re.sub(r"[^\w.=+]+", "_", last).strip("._")[:48] or "unnamed"


def _new_folder(root: Path, stem: str) -> Path:
    while True:
        path = root / f"{stem}-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
        try:
            path.mkdir()
        except FileExistsError:
            continue
        return path


def _point(latest: Path, name: str) -> None:
    """Point `latest` at a run by one rename: a relative link, or a file with the name where links fail."""
    temporary = latest.with_name(f".{LATEST}-{secrets.token_hex(4)}")
    try:
        temporary.symlink_to(name, target_is_directory=True)
    except (OSError, NotImplementedError):
        temporary.write_text(f"{name}\n", encoding="utf-8")
    try:
        temporary.replace(latest)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _find(path: Path, root: Path) -> Path:
    """The folder that is meant. A `latest` is followed, so that a run goes by its own name."""
    for place in (path, root / path):
        target = _target(place)
        if target is not None:
            place, link = place.parent / target, place
            if not place.is_dir():
                raise RunError(f"{link} points to {target!r}, which is gone: {_those_of(link.parent)}")
        if place.is_dir():
            return place
        if place.is_file():
            raise RunError(f"{place} is a file and no run folder: give the folder of a run")
    names = _runs_of(path.parent) + _runs_of(root)
    longer = [f", did you mean {name!r}?" for name in names if name.startswith(path.name)]
    hint = [*longer, nearest(path.name, [*names, LATEST])][0]
    raise RunError(f"there is no run {path}{hint or ': ' + _those_of(root)}")


def _target(place: Path) -> str | None:
    """Where `latest` points, be it a link or a file; None for any other path."""
    if place.is_symlink():
        return os.readlink(place)
    if place.name == LATEST and place.is_file():
        name = place.read_text(encoding="utf-8", errors="replace").strip()
        return Path(name).name[:200]
    return None


def _runs_of(folder: Path) -> list[str]:
    """Names of the runs in a folder, newest first."""
    if not folder.is_dir():
        return []
    found = [path for path in folder.iterdir() if (path / CONFIG).is_file() and not path.is_symlink()]
    return [path.name for path in sorted(found, key=lambda p: (p / CONFIG).stat().st_mtime, reverse=True)]


def _those_of(folder: Path) -> str:
    names = _runs_of(folder)
    return f"the newest is {names[0]}" if names else f"there are none in {folder}, train one first"


# ---- files


def _yaml(config: Mapping[str, Any]) -> str:
    import yaml

    try:
        return yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True)
    except yaml.YAMLError as error:
        line = " ".join(str(error).split())
        raise RunError(
            f"the options are no plain values ({line}): use numbers, texts, lists, dicts"
        ) from error


def _replace(file: Path, data: bytes) -> None:
    """Write a file so that it is the old one or the new one at every moment."""
    temporary = file.with_name(f".{file.name}-{secrets.token_hex(4)}")
    try:
        with open(temporary, "wb") as out:
            out.write(data)
            out.flush()
            os.fsync(out.fileno())
        temporary.replace(file)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise RunError(f"{file} cannot be written ({error.strerror}): free space, or allow it") from error
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _append(file: Path, line: str) -> None:
    """Add one line, unbuffered: a reader sees it now. What a full disk cuts off is taken back."""
    try:
        with open(file, "ab", buffering=0) as out:
            end, data = out.seek(0, os.SEEK_END), f"{line}\n".encode()
            try:
                while data:
                    data = data[out.write(data) :]
            except OSError:
                out.truncate(end)
                raise
    except OSError as error:
        raise RunError(f"{file} cannot be written ({error.strerror}): free space, or allow it") from error


def _repair(file: Path) -> None:
    """Cut off a half-written last line; end a whole one that lacks its newline."""
    if not file.exists():
        return
    data = file.read_bytes()
    whole, newline, rest = data.rpartition(b"\n")
    if not rest:
        return
    try:
        json.loads(rest)
    except ValueError:
        _replace(file, whole + newline)
    else:
        _replace(file, data + b"\n")


def _plain(value: Any, name: str) -> Any:
    """Plain values for JSON: scalars of numpy and torch as numbers, what is not finite as text."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item, f"{name}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, f"{name}[{i}]") for i, item in enumerate(value)]
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "item"):
        if getattr(value, "ndim", 0):
            return _plain(value.tolist(), name)
        value = value.item()
    if isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        if math.isfinite(value):
            return value
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    raise RunError(f"{name} is a {type(value).__name__}: log numbers, texts, and lists and dicts of them")


def _number(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _number(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_number(item) for item in value]
    return _NOT_FINITE.get(value, value) if isinstance(value, str) else value
