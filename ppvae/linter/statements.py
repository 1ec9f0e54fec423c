"""The statements of one program, read off its records: names twice, loops, plates of another size."""

from __future__ import annotations

from ppvae.linter.record import Record, Run
from ppvae.linter.subject import Subject
from ppvae.tracing import DATA_PLATE


def loop(subject: Subject, run: Run) -> bool:
    """Whether the data plate is a Python loop; if so, it is reported."""
    vectorized = any(f.vectorized for r in run.records for f in r.frames)
    for record in run.of("sample", "factor", "deterministic"):
        frame = next((f for f in record.frames if not f.vectorized), None)
        if frame is None or not subject.rows:
            continue
        if frame.name == DATA_PLATE or (not vectorized and frame.size == subject.rows):
            plate = next((r for r in run.of("plate") if r.name == frame.name), record)
            subject.error(
                "sequential",
                f"the {run.role} loops over the plate {frame.name!r}, `for ... in pyro.plate(...)`, and "
                f"makes a site for each datum, such as {record.name!r}",
                plate.place,
                'state each site once for all rows, `with pyro.plate("data", rows, dim=-1):`',
                frame.name,
            )
            return True
    return False


def duplicates(subject: Subject, run: Run) -> None:
    """One name for two statements of one program."""
    seen: dict[str, Record] = {}
    for record in run.of("sample", "factor", "deterministic", "plate", "param"):
        first = seen.setdefault(record.name, record)
        if first is record or (first.kind == record.kind == "param"):
            continue
        if first.message is record.message:
            continue
        kinds = {first.kind, record.kind}
        line = f"line {first.place.line}"
        if kinds == {"plate"}:
            subject.error(
                "duplicate-plate",
                f"the plate {record.name!r} is made twice in the {run.role}, first at {line}",
                record.place,
                f"make it once, data = pyro.plate({record.name!r}, rows, dim=-1), and enter it with `with "
                "data:` twice",
                record.name,
            )
        elif "plate" in kinds:
            subject.error(
                "site-plate-name",
                f"{record.name!r} names both a plate and a site in the {run.role} (see {line})",
                record.place,
                "give the site another name",
                record.name,
            )
        elif "param" in kinds:
            subject.error(
                "site-param-name",
                f"{record.name!r} names both a parameter and a site in the {run.role} (see {line})",
                record.place,
                "give one of them another name",
                record.name,
            )
        else:
            subject.error(
                "duplicate-site",
                f"two sites of the {run.role} are called {record.name!r}, the first at {line}",
                record.place,
                "give each site a name of its own, such as f'z{i}' in a loop",
                record.name,
            )


def plate_size(subject: Subject, record: Record, count: int) -> bool:
    """Whether the data plate `record` has another size than the batch; if so, it is reported."""
    size, drawn = record.message["fn"].size, record.drawn
    if record.name != DATA_PLATE or count == 0:
        return False
    if drawn != size:
        whole, known = drawn == count, subject.num_data
        other = known is not None and size != known
        why = f", while the batch has {count} data" if not whole else ""
        why = why or (f", while there are {known} data: two different N" if other else "")
        subject.add(
            "error" if why else "warning",
            "subsample",
            f"the plate 'data' of the {record.role} is subsampled, {drawn} of {size}{why}",
            record.place,
            'write pyro.plate("data", len(x), dim=-1): batches and the scale N / B are the library\'s',
            DATA_PLATE,
        )
        return bool(why)
    if size == count:
        return False
    subject.error(
        "plate-size",
        f"the plate 'data' of the {record.role} has {size} rows, the batch {count}",
        record.place,
        'read the size off the data: pyro.plate("data", n if x is None else len(x), dim=-1)',
        DATA_PLATE,
    )
    return True
