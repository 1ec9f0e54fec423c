"""`Run`: one run folder to write to and read from."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ppvae.environment import environment
from ppvae.errors import RunError
from ppvae.runs import metrics_log, strict_json
from ppvae.runs.files import append, replace
from ppvae.runs.folders import (
    CHECKPOINTS,
    CONFIG,
    LATEST,
    find_folder,
    new_folder,
    newest_trained,
    point_latest,
)
from ppvae.runs.lock import Lock

ENV, METRICS, LOG = "env.json", "metrics.jsonl", "log.txt"


class Run:
    """A run folder, from `Run.create` or `Run.open`. As a context manager it gives up its lock at the end."""

    def __init__(self, path: Path):
        self.path = path
        self._lock: Lock | None = None

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
            run = cls(new_folder(root, pair_name, data_name, estimator_name))
            try:
                run._fill(text)
                point_latest(root, run.name)
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
        replace(self.path / CONFIG, config.encode())  # last: it makes the folder a run

    def record(self, config: Mapping[str, Any]) -> None:
        """Put other options in the place of config.yaml, at once."""
        self._take_lock()
        replace(self.path / CONFIG, _yaml(config).encode())

    @classmethod
    def open(cls, path: str | Path, write: bool = False, root: str | Path = "runs") -> Run:
        """Open a run by its path, by its name under `root`, or as `latest`.

        Args:
            write: take the lock now, so that a run that cannot be written is refused before any work is done;
                otherwise the first write takes it.

        Raises:
            RunError: no such run (the nearest name is suggested), a folder that is no run, or with `write`
                one that is read-only or in use by another process.
        """
        run = cls(find_folder(Path(path), Path(root)))
        if not (run.path / CONFIG).is_file():
            raise RunError(f"{run.path} is no run folder, it has no {CONFIG}: give one of `ppvae train`")
        if write:
            run._take_lock()
        return run

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints, for `ppvae.checkpoint`."""
        return self.path / CHECKPOINTS

    def newest_trained(self) -> str | None:
        """The name of the newest other run beside this one that has a checkpoint."""
        return newest_trained(self.path.parent, self.name)

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
        except (OSError, ValueError, yaml.YAMLError) as error:
            line = " ".join(str(error).split())
            raise RunError(f"{file} cannot be read ({line}): restore it, or train again") from error
        if not isinstance(found, dict):
            raise RunError(f"{file} holds no options: restore it, or train again")
        return found

    def log_metrics(self, step: int, **values: Any) -> None:
        """Append one line to metrics.jsonl, at once and whole.

        Args:
            values: numbers (Python's, numpy's or tensors), texts, None, and lists and dicts of them. What is
                not finite is written as text, and read back as a number.

        Raises:
            RunError: a value of another kind, a full disk, or a run that another process is writing to.
        """
        self._take_lock()
        metrics_log.append(self.path / METRICS, {"step": step, **values})

    def metrics(self) -> list[dict[str, Any]]:
        """All lines of metrics.jsonl, oldest first. A half-written last line is skipped.

        Raises:
            RunError: a line that is damaged, by its number.
        """
        return metrics_log.read(self.path / METRICS)

    def drop_metrics_after(self, step: int) -> None:
        """Forget lines of later steps: a run that goes on from a checkpoint writes them again."""
        self._take_lock()
        metrics_log.drop_after(self.path / METRICS, step)

    def log(self, text: str) -> None:
        """Append `text` to log.txt, with the time."""
        self._take_lock()
        append(self.path / LOG, f"{time.strftime('%Y-%m-%d %H:%M:%S')}  {text}")

    def write_json(self, name: str, value: Any) -> None:
        """Write a JSON file into the run, whole or not at all; NaN and infinities as `log_metrics` does."""
        replace(self.path / name, (strict_json.dumps(value, name, indent=2) + "\n").encode())

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
        if self._lock is None or self._lock.pid != os.getpid():
            self._lock = Lock.take(self.path)
            metrics_log.repair(self.path / METRICS)


def _yaml(config: Mapping[str, Any]) -> str:
    import yaml

    try:
        return yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True)
    except yaml.YAMLError as error:
        line = " ".join(str(error).split())
        raise RunError(
            f"the options are no plain values ({line}): use numbers, texts, lists, dicts"
        ) from error
