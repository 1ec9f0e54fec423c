"""Make docs/estimators.md: every estimator's own docstring, under a table of what it claims and needs.

python benchmarks/estimators.py
"""

from __future__ import annotations

import inspect
from pathlib import Path

from ppvae.estimators import ESTIMATORS, Estimator, sites

PAGE = Path(__file__).parent.parent / "docs" / "estimators.md"
HEAD = """# Estimators

w = p(x, z) / q(z | x) is the weight of one datum and one draw of the guide, never joint over a batch; there
are K draws a datum, `particles=K` or `k=K`. All values are nats per datum. The table is about the options as
they stand by default:

- "bound": on which side of log p(x) the mean of the reported value lies.
- "model", "guide": whether their gradients are, in the mean, those of the objective that the text below
  names; "another objective": one that is no mean of a function of w.
- "must be reparameterized": the latents whose draws must be differentiable, as a Gaussian's are and a
  Bernoulli's are not.
- "weights": "local, unscaled" where w enters nonlinearly, so that all latents must be a datum's own and no
  site may carry a scale; another pair is refused.

*Knobs* are numbers that training may move with the step, as a warm-up of `beta` or a falling temperature.
The optimizer group `estimator` holds parameters of the estimator's own, such as a baseline's net, beside
`model` and `guide`.

What an estimator claims is held against exact truths by `ppvae check NAME`. `pyro:NAME` is a loss of Pyro's
own ([how they differ](pyro.md)), `file.py:CLASS` one of yours. `benchmarks/estimators.py` made this page
from the docstrings.
"""
BY_ITSELF = (
    '`elbo:c=enumerate,z=score`, or `ELBO(sites={"c": "enumerate", "z": "score"})`, of two latents c and z:'
)


def row(name: str, cls: type[Estimator]) -> str:
    made = cls()  # what it claims may depend on its options, as iwae_stl's bias does
    claims, needs, targets = made.claims, made.needs, made.targets()
    gradients = {group: "biased" if group in claims.biased else "unbiased" for group in ("model", "guide")}
    gradients |= {group: "another objective" for group in gradients if group not in targets}
    reparameterized = "all latents" if needs.reparameterized else "no"
    cells = [
        f"[`{name}`](#{name})",
        claims.bound or "no bound",
        *gradients.values(),
        reparameterized,
        "local, unscaled" if needs.weights else "any",
    ]
    return f"| {' | '.join(cells)} |"


def section(name: str, cls: type[Estimator]) -> str:
    text = inspect.getdoc(cls) or ""
    options = [p for n, p in inspect.signature(cls).parameters.items() if n != "sites"]
    given = ",".join(f"{p.name}={p.default}" for p in options)
    return f"## {name}\n\n`{name}{':' if given else ''}{given}`\n\n```text\n{text}\n```"


def page() -> str:
    names = ["name", "bound", "model", "guide", "must be reparameterized", "weights"]
    table = [f"| {' | '.join(names)} |", f"| {' | '.join('---' for _ in names)} |"]
    table += [row(name, cls) for name, cls in ESTIMATORS.items()]
    sections = [section(name, cls) for name, cls in ESTIMATORS.items()]
    by_itself = f"## A latent by itself\n\n{BY_ITSELF}\n\n```text\n{inspect.getdoc(sites)}\n```"
    return "\n\n".join([HEAD.strip(), "\n".join(table), by_itself, *sections]) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(f"written: {PAGE}")
