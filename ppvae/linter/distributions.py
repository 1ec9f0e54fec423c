"""Exceptions of distributions and plates: parameters and shapes that do not fit."""

from __future__ import annotations

import re
from typing import Any

from ppvae.linter.places import Place
from ppvae.linter.record import Run
from ppvae.linter.subject import Subject


def plate_mismatch(subject: Subject, run: Run, text: str, where: Place) -> bool:
    found = re.search(r"Shape mismatch inside plate\('(.+)'\) at site (.+) dim (-\d+), (\d+) vs (\d+)", text)
    if not found:
        return False
    plate, site, dim, size, other = found.groups()
    assert run.error is not None
    shape = tuple(_local(run.error, "actual_batch_shape") or (int(other),))
    subject.error(
        "to-event",
        f"site {site!r} of the {run.role} has batch_shape {shape}, whose dim {dim} of size {other} lies in "
        f"the plate {plate!r} of size {size}",
        where,
        f"make what belongs to one datum an event, .to_event({max(1, len(shape) - 1)}), or give x and the "
        "distribution the same rows",
        site,
    )
    return True


def _local(error: BaseException, name: str) -> Any:
    """A local variable of the deepest frame that has it."""
    found, trace = None, error.__traceback__
    while trace is not None:
        found = trace.tb_frame.f_locals.get(name, found)
        trace = trace.tb_next
    return found


def out_of_constraint(subject: Subject, run: Run, where: Place, phase: str, count: int) -> bool:
    found = re.search(
        r"Expected parameter (\w+) .*of distribution (\w+).*satisfy the constraint (.+?),? but found",
        str(run.error),
    )
    if not found:
        return False
    name, distribution, constraint = found.groups()
    if "nan" in str(run.error) and phase == "rows":
        subject.error(
            "batch-size",
            f"{name} of the {distribution} in the {run.role} is nan on a batch of {count}, not on one of "
            f"{subject.rows}: it depends on a statistic over the rows, and the std of one row is nan",
            where,
            "let each datum stand alone: take means and deviations from the training set, kept as "
            "buffers, or over the datum's own dims, dim=-1",
        )
        return True
    if "nan" in str(run.error):
        holes = [
            n for n, v in subject.inputs.items() if v.is_floating_point() and not bool(v.isfinite().all())
        ]
        subject.error(
            "nonfinite",
            f"{name} of the {distribution} in the {run.role} is nan"
            + (f", and field {holes[0]!r} of the data holds nan or inf" if holes else ""),
            where,
            "fill the missing entries with 0 and pass a mask, or drop those data, so that all are finite"
            if holes
            else "look for log of 0, division by 0 or an exploding exp in what computes it",
        )
        return True
    fixes = {
        "GreaterThan(lower_bound=0.0)": "softplus(...) or exp(...)",
        "Interval(lower_bound=0.0, upper_bound=1.0)": "torch.sigmoid(...), or pass logits= instead of probs=",
        "Simplex()": "softmax(-1), or pass logits= instead of probs=",
    }
    subject.error(
        "constraint",
        f"{name} of the {distribution} in the {run.role} violates {constraint}",
        where,
        "pass it through "
        f"{fixes.get(constraint, 'a transform into the constraint, see torch.distributions.transform_to')}",
    )
    return True
