"""metrics.jsonl: one JSON object a line, which a writer that is killed leaves half-written at worst."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ppvae.errors import RunError
from ppvae.runs import files, strict_json


def append(file: Path, entry: Mapping[str, Any]) -> None:
    files.append(file, strict_json.dumps(entry, "metrics"))


def read(file: Path) -> list[dict[str, Any]]:
    """All entries, oldest first; a half-written last line is skipped. RunError for any other damage."""
    entries = []
    lines = file.read_bytes().split(b"\n") if file.exists() else []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            entry = strict_json.loads(line)
            if not isinstance(entry, dict):
                raise ValueError("no JSON object")
        except ValueError as error:
            if number == len(lines):  # no newline after it: its writer was stopped
                break
            raise RunError(f"{file}, line {number} is damaged ({error}): delete that line") from error
        entries.append(entry)
    return entries


def drop_after(file: Path, step: int) -> None:
    """Keep the entries up to a step, and no others."""
    kept = [strict_json.dumps(entry, "metrics") for entry in read(file) if entry["step"] <= step]
    files.replace(file, "".join(f"{line}\n" for line in kept).encode())


def repair(file: Path) -> None:
    """Cut off a half-written last line; end a whole one that lacks its newline."""
    if not file.exists():
        return
    whole, newline, rest = file.read_bytes().rpartition(b"\n")
    if not rest:
        return
    try:
        json.loads(rest)
    except ValueError:
        files.replace(file, whole + newline)
    else:
        files.replace(file, whole + newline + rest + b"\n")
