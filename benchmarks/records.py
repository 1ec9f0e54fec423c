"""What the benchmarks of findings keep: one JSON per schedule, written after each part, that a stopped run
goes on with, and that belongs to the schedule by its hash."""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path
from typing import Any

import yaml

from ppvae.environment import environment


def asked(description: str) -> tuple[dict[str, Any], dict[str, Any], Path]:
    """The schedule that the command line names, the record begun for it (`cells` is empty at first), and its
    place.

    Raises:
        SystemExit: the schedule is another one than the record was begun with.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("schedule", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    text = options.schedule.read_bytes()
    schedule, sha = yaml.safe_load(text), hashlib.sha256(text).hexdigest()
    record: dict[str, Any] = json.loads(options.out.read_text()) if options.out.exists() else {"cells": []}
    if record.setdefault("schedule_sha256", sha) != sha:
        raise SystemExit(f"{options.schedule} has changed since {options.out} was begun: move that file away")
    record |= {
        "question": schedule["question"],
        "schedule": schedule,
        "environment": environment() | {"threads": 1},
    }
    return schedule, record, options.out


def keep(record: dict[str, Any], out: Path) -> None:
    """Write the record; a run that is killed meanwhile leaves the one before."""
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_suffix(".part")
    part.write_text(json.dumps(record, indent=1) + "\n")
    part.replace(out)
