"""`check`: one stage after another, and a stop at the first that finds an error.

The order is from cause to consequence: a misspelt site makes every later number meaningless, and one right
finding is worth more than five that follow from it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from ppvae.built import Built
from ppvae.errors import PPVAEError
from ppvae.linter import (
    dtypes,
    handling,
    leakage,
    likelihood,
    names,
    numbers,
    observed,
    parameters,
    particles,
    places,
    plates,
    recipe,
    runs,
    sampling,
    search,
    shapes,
    supports,
)
from ppvae.linter.report import Report, Row
from ppvae.linter.subject import POOL, Subject, as_data, pool, rows, take, untouched
from ppvae.linter.wording import one_line, told
from ppvae.pair import Pair
from ppvae.registry import find

# Each inner tuple is one stage: its checks do not follow from each other, so all of them run.
_STAGES: tuple[tuple[Callable[[Subject], None], ...], ...] = (
    (runs.first_runs,),
    (names.names, observed.observed, observed.conditions),
    (plates.plates,),
    (shapes.latents,),
    (supports.latents, handling.handling),
    (shapes.replay,),
    (runs.stable,),
    (particles.batch_sizes,),
    (likelihood.data, numbers.scales),
    (numbers.finite,),
    (supports.again,),
    (
        parameters.check,
        parameters.shared,
        leakage.leakage,
        particles.particles,
        sampling.sampling,
        sampling.amortized,
        dtypes.types,
    ),
)


def check(
    pair: Pair | str,
    data: Any = None,
    batch: Mapping[str, Tensor] | None = None,
    *,
    built: Built | None = None,
    seed: int = 0,
    sizes: Mapping[str, Any] | None = None,
) -> Report:
    """Check that a guide fits its model, and both the data, by running them on a few data.

    Args:
        pair: a Pair, or a name as `ppvae.find` takes it.
        data: a data set, a dict of tensors of shape (N, ...), or the name of a data set; by default `batch`,
            else the data set that the pair names.
        batch: tensors of shape (B, ...) to check on; by default rows from all over the training data.
        built: the pair's modules where they are made already; otherwise they are built here, from `seed`.
        seed: of the modules and of the draws.
        sizes: constructor arguments, as `ppvae.build` takes them.

    Random states, parameters, buffers, gradients and training flags are left as they were. Whatever is wrong
    with the pair, also an exception in its code, is a finding; nothing is raised.
    """
    report = Report(pair if isinstance(pair, str) else pair.name or _name(pair))
    with untouched(built):
        subject = Subject(pair, report, seed, built=built)  # type: ignore[arg-type]
        if _prepare(subject, data, batch, dict(sizes or {})):
            outside = [m for role in ("model", "guide") for m in search.modules(subject.part(role))]
            with untouched(subject.built, *outside):
                _stages(subject)
    report.findings.sort(key=lambda finding: ("error", "warning", "note").index(finding.level))
    return report


def _name(pair: Pair) -> str:
    return getattr(pair.model, "__name__", type(pair.model).__name__)


def _prepare(subject: Subject, data: Any, batch: Any, sizes: dict[str, Any]) -> bool:
    """Find the pair, the data and the modules; False where a finding stands in the way."""
    report = subject.report
    try:
        subject.pair = find(subject.pair)
    except PPVAEError as error:
        if isinstance(cause := error.__cause__, SyntaxError):
            where = places.Place(cause.filename, cause.lineno)
            report.findings.append(
                _unplaced("import", f"the file is no Python: {cause.msg}", "mend that line", where)
            )
        else:
            report.findings.append(_unplaced("pair", *told(error)))
    except Exception as error:
        where = places.of_exception(error, _prepare.__code__)
        text = f"the pair's file cannot be imported, {type(error).__name__}: {one_line(error)}"
        report.findings.append(_unplaced("import", text, "make the file run by itself: python FILE", where))
    if not report.ok:
        return False
    recipe.parts(subject)
    if not report.ok:
        return False
    try:
        subject.data = as_data(subject.pair, data, batch)
        subject.pool = pool(subject.data, batch)
    except PPVAEError as error:
        message, fix = told(error)
        subject.error("data", message, places.of_pair(subject.pair, "data"), fix)
        return False
    except Exception as error:
        text = f"no batch can be taken from the data, {type(error).__name__}: {one_line(error)}"
        subject.error(
            "data", text, places.of_pair(subject.pair, "data"), "pass a dict of tensors, one row per datum"
        )
        return False
    lengths = {name: len(v) for name, v in subject.pool.items() if v.dim()}
    if len(set(lengths.values())) > 1 or (lengths and not all(lengths.values())):
        subject.error(
            "data", f"the fields have {lengths} rows", fix="give every field one row per datum, at least one"
        )
        return False
    given = subject.built is not None
    recipe.construct(subject, sizes)
    if given or data is not None or batch is None:
        subject.num_data = getattr(subject.built, "num_data", None)
    return report.ok


def _unplaced(code: str, message: str, fix: str, where: places.Place = places.NOWHERE) -> Any:
    from ppvae.linter.report import Finding

    return Finding("error", code, message, where.file, where.line, fix)


def _stages(subject: Subject) -> None:
    try:
        recipe.fields(subject)
        recipe.groups(subject)
        if not subject.report.ok:
            return
        device = subject.built.device
        if device is not None:
            subject.pool = {name: value.to(device) for name, value in subject.pool.items()}
        subject.inputs = subject.built.inputs(take(subject.pool, _rows(subject)))
        for stage in _STAGES:
            for one in stage:
                one(subject)
            if subject.model is not None and subject.model.sites and subject.model.error is None:
                subject.report.table = _table(subject)
            if not subject.report.ok:
                return
    except Exception as error:
        # The linter's own fault, or user code that fails where no run was expected to: never a traceback.
        where = places.of_exception(error)
        subject.error(
            "exception",
            f"the check stopped at {type(error).__name__}: {one_line(error)}",
            where,
            "make the pair run on one batch by hand: ppvae.build(pair, data).score(batch)",
        )


def _rows(subject: Subject) -> int:
    """A handful of rows, a number that is no size in the data or the nets, so that nothing fits by chance."""
    taken = {size for value in subject.pool.values() for size in value.shape[1:]}
    taken |= {size for parameter in subject.built.parameters() for size in parameter.shape}
    available = min(rows(subject.pool), POOL)
    fitting = [n for n in (5, 7, 6, 9, 11, 13, 4, 3) if n <= available]
    return next((n for n in fitting if n not in taken), fitting[0] if fitting else available)


def _table(subject: Subject) -> list[Row]:
    found = []
    model, guide = subject.model.sites, subject.guide.sites
    for name in [*guide, *(name for name in model if name not in guide)]:
        p, q = model.get(name), guide.get(name)
        site = p or q
        assert site is not None
        kind = "observed" if site.observed else "local" if site.in_data or not subject.inputs else "global"
        how = (
            ""
            if site.observed
            else subject.pair.handling(name) or ("reparameterized" if q and q.fn.has_rsample else "score")
        )
        found.append(
            Row(
                name=name,
                kind=kind if p is not None else "auxiliary",
                plates=tuple(f.name for f in sorted(site.plates, key=lambda frame: frame.dim)),
                batch_shape=tuple(site.fn.batch_shape),
                event_shape=tuple(site.fn.event_shape),
                model=supports.family(p.fn) if p else "",
                guide=supports.family(q.fn) if q else "",
                support=supports.describe(supports.support_of(site.fn)),
                how=how,
            )
        )
    return found
