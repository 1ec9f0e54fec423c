"""From an exception in a model or guide to a finding: what went wrong, where, and what to do about it."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor

from ppvae.errors import PairError
from ppvae.linter.places import NOWHERE, Place
from ppvae.linter.record import Record, Run
from ppvae.linter.subject import Subject, rows
from ppvae.linter.wording import one_line, told
from ppvae.terms import DATA_PLATE

_DTYPES = (
    r"same dtype",
    r"expected scalar type",
    r"Input type .* and bias type",
    r"Input type .* and weight type",
    r"result type .* can't be cast",
    r"not implemented for '(Long|Int|Bool|Byte|Char)'",
    r"Only Tensors of floating point",
    r"to be a floating",
)
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
    elif isinstance(error, PairError):
        _refused(subject, run, " ".join(str(error).split()), where)
    elif (
        _constraint(subject, run, where, phase, rows(inputs))
        or (phase == "score" and _enumeration(subject, run, text, where))
        or _plate_mismatch(subject, run, text, where)
        or _argument(subject, run, error, text, where, inputs)
    ):
        pass
    elif any(re.search(pattern, text) for pattern in _DTYPES):
        subject.error(
            "dtype",
            f"the {run.role} mixes types ({_dtypes(subject, inputs)}): {text}",
            where,
            _cast(inputs, parameter_dtype(subject)),
        )
    elif phase == "rows":
        subject.error(
            "batch-size",
            f"the {run.role} fails on a batch of {rows(inputs)} data, {type(error).__name__}: {text}",
            where,
            "read the number of rows off the data: rows = n if x is None else len(x)",
        )
    elif any(re.search(pattern, text) for pattern in _SHAPES):
        draws = phase == "replay"
        subject.error(
            "shape",
            f"shapes do not fit in the {run.role}{' at the draws of the guide' if draws else ''}: {text} "
            f"(data: {_shapes(inputs)})",
            where,
            "check the sizes of the nets against the event shapes"
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
                f"the {run.role} loops over the plate {frame.name!r}, `for ... in pyro.plate(...)`, and makes a "
                f"site for each datum, such as {record.name!r}",
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
    size, drawn = record.message["fn"].size, record.message["fn"].subsample_size
    drawn = len(record.value) if isinstance(record.value, Tensor) else size if drawn is None else drawn
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


def _duplicate(subject: Subject, run: Run) -> bool:
    before = len(subject.report.findings)
    # A run through `score` holds the guide's and the model's records: names rightly come twice.
    if run.role != "score":
        duplicates(subject, run)
    return len(subject.report.findings) > before


def _plate_size(subject: Subject, run: Run, count: int) -> bool:
    found = [plate_size(subject, record, count) for record in run.of("plate")]
    return any(found)


def _plate_mismatch(subject: Subject, run: Run, text: str, where: Place) -> bool:
    found = re.search(r"Shape mismatch inside plate\('(.+)'\) at site (.+) dim (-\d+), (\d+) vs (\d+)", text)
    if not found:
        return False
    plate, site, dim, size, other = found.groups()
    assert run.error is not None
    shape = tuple(_local(run.error, "actual_batch_shape") or (int(other),))
    subject.error(
        "to-event",
        f"site {site!r} of the {run.role} has batch_shape {shape}, whose dim {dim} of size {other} lies in "
        "the "
        f"plate {plate!r} of size {size}",
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


def _enumeration(subject: Subject, run: Run, text: str, where: Place) -> bool:
    """What runs on draws may fail on all values of a latent at once."""
    names = ", ".join(map(repr, subject.built.enumerated))
    if not names:
        return False
    error = type(run.error).__name__
    subject.error(
        "enumeration",
        f"the pair runs on draws but fails where {names} is enumerated, {error}: {text} (enumerated values have "
        "a leading dim more than drawn ones)",
        where,
        "broadcast what meets before torch.cat or torch.stack, e.g. torch.broadcast_shapes and .expand, let the "
        "nets take leading dims, or handle the latent by 'score'",
    )
    return True


def _constraint(subject: Subject, run: Run, where: Place, phase: str, count: int) -> bool:
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
            "let each datum stand alone: take means and deviations from the training set, kept as buffers, or "
            "over the datum's own dims, dim=-1",
        )
        return True
    if "nan" in str(run.error):
        subject.error(
            "nonfinite",
            f"{name} of the {distribution} in the {run.role} is nan",
            where,
            "look for log of 0, division by 0 or an exploding exp in what computes it; are the data finite?",
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


def parameter_dtype(subject: Subject) -> torch.dtype | None:
    return next((p.dtype for p in subject.built.parameters() if p.is_floating_point()), None)


def _dtypes(subject: Subject, inputs) -> str:
    parts = [f"{n} is {_short(v.dtype)}" for n, v in inputs.items() if isinstance(v, Tensor)]
    known = parameter_dtype(subject)
    return ", ".join([*parts, *([f"parameters are {_short(known)}"] if known else [])])


def _cast(inputs, known: torch.dtype | None) -> str:
    if (
        any(isinstance(v, Tensor) and v.dtype == torch.float64 for v in inputs.values())
        and known == torch.float64
    ):
        return "make constants in the parameters' type, weight.new_zeros(...), or give the data as float32"
    double = [n for n, v in inputs.items() if isinstance(v, Tensor) and v.dtype == torch.float64]
    if double:
        return f"give {double[0]} as float32 ({double[0]}.float()), or build the modules in float64"
    whole = [n for n, v in inputs.items() if isinstance(v, Tensor) and not v.is_floating_point()]
    if whole:
        return f"convert {whole[0]} before a net takes it ({whole[0]}.float(), or one_hot for classes)"
    return "make both sides one type, .float()"


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _shapes(inputs) -> str:
    return ", ".join(f"{n} {tuple(v.shape)}" for n, v in inputs.items() if isinstance(v, Tensor)) or "no data"
