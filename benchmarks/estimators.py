"""Make docs/estimators.md: every estimator's own docstring, under a table of what it claims and needs.

python benchmarks/estimators.py
"""

from __future__ import annotations

import inspect
from pathlib import Path

from ppvae.estimators import ESTIMATORS, Estimator

PAGE = Path(__file__).parent.parent / "docs" / "estimators.md"
HEAD = """# Estimators

w = p(x, z) / q(z | x); all values are nats per datum. "Bound" says on which side of log p(x) the mean of the
reported value lies; "model" and "guide" tell of the gradients. What an estimator claims is held against exact
truths by `ppvae check NAME`. `benchmarks/estimators.py` made this page from the docstrings.
"""


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
    return "\n\n".join([HEAD.strip(), "\n".join(table), *sections]) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(f"written: {PAGE}")
