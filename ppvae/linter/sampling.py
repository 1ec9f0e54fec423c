"""The model draws data when none are given, and the guide reads the data when they are."""

from __future__ import annotations

import inspect
from collections.abc import Mapping

import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn

from ppvae.linter import places
from ppvae.linter.evaluation import evaluation
from ppvae.linter.explain import explain
from ppvae.linter.subject import Subject
from ppvae.linter.wording import one_line
from ppvae.tracing import DATA_PLATE


def sampling(subject: Subject) -> None:
    """The model draws data when none are given."""
    pair = subject.pair
    if not pair.observed or pair.bound == "none":
        return
    model = subject.built.model
    parameters = inspect.signature(model.forward if isinstance(model, nn.Module) else model).parameters
    anything = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    optional = all(name not in parameters or parameters[name].default is None for name in pair.observed)
    where = places.of_forward(model)
    if not optional or ("n" not in parameters and not anything and not pair.conditions):
        name = pair.observed[0]
        subject.warn(
            "cannot-sample",
            f"the model cannot be sampled: its signature lacks {'n' if optional else f'{name}=None'}",
            where,
            f"write model({name}=None, ..., n=None), with rows = n if {name} is None else len({name}), "
            f"and obs={name}, which is drawn when it is None",
            name,
        )
        return
    subsampled = any(finding.code == "subsample" for finding in subject.report.findings)
    for count in (2, 3):
        given = {n: v[:count] for n, v in subject.inputs.items() if n in pair.conditions}
        with evaluation(subject):
            run = subject.run("model", {**given, "n": count})
        if isinstance(run.error, NotImplementedError):
            subject.warn(
                "cannot-sample",
                f"the model cannot be sampled, {one_line(run.error)}",
                run.place,
                "give the latent a proper prior, if the model is to generate data",
            )
            return
        if run.error is not None:
            explain(subject, run, given, "sample")
            return
        for name in pair.observed:
            site = run.sites.get(name)
            if site is None or not site.in_data or subsampled:
                continue
            drawn = (1, *site.fn.batch_shape)[-1]
            if drawn != count:
                subject.error(
                    "cannot-sample",
                    f"the model ignores n: asked for n={count} draws of {name!r}, it gives {drawn} "
                    f"row{'s' if drawn != 1 else ''}",
                    site.place,
                    "read the rows off n where nothing is observed: rows = n if x is None else len(x)",
                    name,
                )
                return


def amortized(subject: Subject) -> None:
    """A local latent whose q(z | x) does not depend on the datum may be a global one in the wrong place."""
    inputs = {n: v.clone().requires_grad_(v.is_floating_point()) for n, v in subject.inputs.items()}
    if not any(v.requires_grad for v in inputs.values()) or subject.rows < 2:
        return
    takes = subject.built._takes["guide"]
    if takes is not None and any(not v.is_floating_point() for n, v in inputs.items() if n in takes):
        return
    with _Discrete() as draws:
        run = subject.run("guide", inputs)
    if run.error is not None or draws.whole or (takes is not None and not takes & set(inputs)):
        return
    inputs |= draws.leaves
    for name, site in run.sites.items():
        log_q = site.fn.log_prob(site.value.detach()) if isinstance(site.value, Tensor) else None
        if site.in_data and log_q is not None and log_q.requires_grad and not _follows(log_q, inputs):
            subject.warn(
                "unamortized",
                f"q({name}) inside the plate 'data' is the same for every datum",
                site.place,
                f"make it depend on x; or, if all data share one {name}, move it in front of the plate in "
                "model and guide",
                name,
            )


class _Discrete(Messenger):
    """Makes inputs of the graph of draws that are not differentiable: a q that reads one differs by datum."""

    def __init__(self):
        super().__init__()
        self.leaves: dict[str, Tensor] = {}
        self.whole = False
        """Whether there are integers, behind which no gradient tells what is read."""

    def _pyro_post_sample(self, msg) -> None:
        value = msg["value"]
        in_data = any(frame.name == DATA_PLATE for frame in msg["cond_indep_stack"])
        if not in_data or msg["is_observed"] or not isinstance(value, Tensor) or msg["fn"].has_rsample:
            return
        self.whole = self.whole or not value.is_floating_point()
        if value.is_floating_point() and not value.requires_grad:
            msg["value"] = self.leaves[msg["name"]] = value.clone().requires_grad_()


def _follows(value: Tensor, inputs: Mapping[str, Tensor]) -> bool:
    wanted = [v for v in inputs.values() if v.requires_grad]
    return any(
        g is not None for g in torch.autograd.grad(value.sum(), wanted, allow_unused=True, retain_graph=True)
    )
