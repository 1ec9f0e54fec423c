"""From an exception in a model or guide to a finding: what went wrong, where, and what to do about it."""

from __future__ import annotations

import re
from typing import Any

from torch import Tensor

from ppvae.errors import PairError, PPVAEError
from ppvae.linter import dtypes
from ppvae.linter.distributions import out_of_constraint, plate_mismatch
from ppvae.linter.places import NOWHERE, Place
from ppvae.linter.record import Record, Run
from ppvae.linter.statements import duplicates, plate_size
from ppvae.linter.subject import Subject, rows
from ppvae.linter.wording import one_line, told

_SHAPES = (
    r"shapes cannot be multiplied",
    r"must match the size of tensor",
    r"size mismatch",
    r"is invalid for input of size",
    r"Expected .*D .*input",
    r"expected input.* to have",
    r"normalized_shape",
    r"not broadcastable",
    r"expanded size of the tensor",
    r"Dimension out of range",
    r"Sizes of tensors must match",
    r"running_mean should contain",
)


PARTICLE_FIX = (
    "let the nets take leading dims (flatten(-1) and Linear rather than view(B, -1) or flatten(1)), "
    "or declare Pair(vectorize=False)"
)


def explain(subject: Subject, run: Run, inputs: dict[str, Any], phase: str = "plain") -> None:
    """Add the one finding that explains why `run` failed; `phase` says what was tried.

    phase: plain, rows (another batch size), particles, replay (the model at the guide's draws), sample,
        score.
    """
    error = run.error
    assert error is not None
    last = run.records[-1] if run.records else None
    text = one_line(error)
    where = run.place
    if where.file is None and last is not None:
        where = last.place
    if phase != "particles" and _duplicate(subject, run):
        return
    if phase != "sample" and _plate_size(subject, run, rows(inputs)):
        return
    if phase == "particles":
        named = _named(run, text) if isinstance(error, PairError) else None
        said = told(error)[0] if isinstance(error, PairError) else f"{type(error).__name__}: {text}"
        subject.error(
            "particles",
            f"the {'pair' if run.role == 'score' else run.role} fails with several particles at once, {said}",
            named.place if named is not None else where,
            PARTICLE_FIX,
            named.name if named is not None else None,
        )
    elif phase == "sample":
        _sampling(subject, text, type(error).__name__, where)
    elif isinstance(error, PPVAEError) and not isinstance(error, PairError):
        message, fix = told(error)  # the pair's own words about its data and sizes
        subject.error("data-support", message, where, fix)
    elif isinstance(error, PairError):
        _refused(subject, run, " ".join(str(error).split()), where)
    elif (
        out_of_constraint(subject, run, where, phase, rows(inputs))
        or (phase == "score" and _enumeration(subject, run, text, where))
        or plate_mismatch(subject, run, text, where)
        or _argument(subject, run, error, text, where, inputs)
        or dtypes.mixed(subject, run, text, where, inputs)
    ):
        pass
    elif phase == "rows":
        subject.error(
            "batch-size",
            f"the {run.role} fails on a batch of {rows(inputs)} data, {type(error).__name__}: {text}",
            where,
            "read the number of rows off the data: rows = n if x is None else len(x)",
        )
    elif any(re.search(pattern, text) for pattern in _SHAPES):
        draws = phase == "replay"
        masked = phase == "score" and next((r for r in run.records if r.mask is not None), None)
        place = "where the sites are scored" if run.role == "score" else f"in the {run.role}"
        subject.error(
            "shape",
            f"shapes do not fit {place}{' at the draws of the guide' if draws else ''}: {text} "
            f"(data: {_shapes(inputs)})",
            masked.place if masked and where.file is None else where,
            "a mask has the batch shape, one entry per datum: mask single entries before the event is made, "
            "dist.Normal(...).mask(mask).to_event(1)"
            if masked
            else "check the sizes of the nets against the event shapes"
            + (
                "; the guide's latent must have the shape of the model's"
                if draws
                else "; flatten x where a net needs it"
            ),
        )
    elif isinstance(error, AttributeError) and "before Module.__init__" in text:
        subject.error(
            "exception", f"the {run.role}'s class: {text}", where, "call super().__init__() first in __init__"
        )
    elif isinstance(error, IndexError):
        whole = {n: v for n, v in inputs.items() if isinstance(v, Tensor) and not v.is_floating_point()}
        ranges = ", ".join(f"{n} takes {int(v.min())}..{int(v.max())}" for n, v in whole.items() if v.numel())
        most = max((int(v.max()) + 1 for v in whole.values() if v.numel()), default=0)
        subject.error(
            "out-of-range",
            f"an index is out of range in the {run.role}: {text}"
            + (f" ({ranges} in this batch)" if ranges else ""),
            where,
            f"make what is indexed hold at least {most} entries; a constructor argument y_classes is "
            "filled from the data"
            if ranges
            else "index within the data: " + _shapes(inputs),
        )
    elif "NoneType" in text:
        subject.error(
            "none-input",
            f"the {run.role} uses an argument that is None here, {type(error).__name__}: {text}",
            where,
            "handle the argument that is None, or declare the field in Pair(observed=) or Pair(conditions=)",
        )
    else:
        subject.error(
            "exception",
            f"the {run.role} raises {type(error).__name__}: {text}",
            where,
            "make it run on one batch: " + _shapes(inputs),
        )


def _duplicate(subject: Subject, run: Run) -> bool:
    before = len(subject.report.findings)
    # A run through `score` holds the guide's and the model's records: names rightly come twice.
    if run.role != "score":
        duplicates(subject, run)
    return len(subject.report.findings) > before


def _plate_size(subject: Subject, run: Run, count: int) -> bool:
    found = [plate_size(subject, record, count) for record in run.of("plate")]
    return any(found)


def _enumeration(subject: Subject, run: Run, text: str, where: Place) -> bool:
    """What runs on draws may fail on all values of a latent at once."""
    names = ", ".join(map(repr, subject.built.enumerated))
    if not names:
        return False
    error = type(run.error).__name__
    subject.error(
        "enumeration",
        f"the pair runs on draws but fails where {names} is enumerated, {error}: {text} (enumerated values "
        "have a leading dim more than drawn ones)",
        where,
        "broadcast what meets before torch.cat or torch.stack, e.g. torch.broadcast_shapes and .expand, "
        "let the nets take leading dims, or handle the latent by 'score'",
    )
    return True


def _argument(subject: Subject, run: Run, error: Exception, text: str, where: Place, inputs) -> bool:
    missing = isinstance(error, TypeError) and re.search(r"missing \d+ required .*arguments?: (.+)", text)
    if not missing:
        return False
    subject.error(
        "argument",
        f"the {run.role} needs {missing.group(1)}, which is no field of the data "
        f"({', '.join(inputs) or 'none given'})",
        where if where.file else NOWHERE,
        "name the arguments as the fields are named, or give them a default",
    )
    return True


def _named(run: Run, text: str) -> Record | None:
    """The statement that a line of the library's own names."""
    found = re.search(r"(?:site|latent) '([^']+)'", text)
    return next((r for r in reversed(run.records) if found and r.name == found.group(1)), None)


def _refused(subject: Subject, run: Run, text: str, where: Place) -> None:
    record = _named(run, text)
    message, fix = told(PairError(text))
    if record is not None:
        subject.error("refused", message, record.place, fix, record.name)
    else:
        subject.error("refused", message, where, fix)


def _sampling(subject: Subject, text: str, kind: str, where: Place) -> None:
    none = "NoneType" in text
    subject.error(
        "cannot-sample",
        f"the model cannot be sampled, {'x=None is not handled' if none else kind}: {text}",
        where,
        "draw what is not given: rows = n if x is None else len(x), and obs=x, which is drawn when x is None",
    )


def _shapes(inputs) -> str:
    return ", ".join(f"{n} {tuple(v.shape)}" for n, v in inputs.items() if isinstance(v, Tensor)) or "no data"
