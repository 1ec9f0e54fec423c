"""The pair linter: each kind of finding on a pair that is broken in that one way, and silence on sound pairs.

An example is a function that returns (pair, data, code, site, word of the fix); `# HERE` marks the line that
the finding must name.
"""

# Examples are broken on purpose, and Pyro's PyroParam attributes have no types.
# pyright: basic, reportArgumentType=false, reportOperatorIssue=false, reportCallIssue=false
# pyright: reportIncompatibleMethodOverride=false, reportAttributeAccessIssue=false, reportOptionalMemberAccess=false
from __future__ import annotations

import inspect
import io
import random
import sys
from pathlib import Path

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.nn import PyroModule, PyroParam
from torch import nn
from torch.distributions import constraints
from torch.nn.functional import softplus

import ppvae
from ppvae.build import build
from ppvae.errors import PairError
from ppvae.linter import Finding, Report, check
from ppvae.pair import Pair, penalty

D, Q = 4, 3


def reals(rows: int = 40, dim: int = D) -> dict[str, torch.Tensor]:
    return {"x": torch.randn(rows, dim, generator=torch.Generator().manual_seed(1))}


def bits(rows: int = 40) -> dict[str, torch.Tensor]:
    return {"x": (reals(rows)["x"] > 0).float()}


class Model(PyroModule):
    def __init__(self):
        super().__init__()
        self.decoder = nn.Linear(Q, D)

    def forward(self, x=None, *, n=None):
        with pyro.plate("data", n if x is None else len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(Q), 1.0).to_event(1))
            return pyro.sample("x", dist.Normal(self.decoder(z), 1.0).to_event(1), obs=x)


class Guide(PyroModule):
    def __init__(self, model):
        super().__init__()
        self.encoder = nn.Linear(D, Q)
        self.scale = PyroParam(torch.ones(Q), constraints.positive)

    def forward(self, x, *, n=None):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(self.encoder(x), self.scale).to_event(1))


# --- the recipe -----------------------------------------------------------------------------------


def broken_instance():
    pair = Pair(
        model=Model(),  # HERE
        guide=Guide,
    )
    return pair, reals(), "instance", None, "pass the class"


def broken_handling_word():
    pair = Pair(
        model=Model,
        guide=Guide,
        discrete={"z": "summed"},  # HERE  # type: ignore[dict-item]
    )
    return pair, reals(), "handling", "z", "enumerate"


def broken_handling_site():
    pair = Pair(
        model=Model,
        guide=Guide,
        discrete={"zz": "score"},  # HERE
    )
    return pair, reals(), "handling", "zz", "name a latent"


def broken_names():
    pair = Pair(
        model=Model,
        guide=Guide,
        observed="x",  # HERE  # type: ignore[arg-type]
    )
    return pair, reals(), "names", None, "('x',)"


def broken_groups():
    pair = Pair(
        model=Model,
        guide=Guide,
        groups={"adversary": ("model.critic",)},  # HERE
    )
    return pair, reals(), "groups", "model.critic", "attribute path"


def broken_constructor():
    class Needs(Model):
        def __init__(self, hidden):  # the line of the class's use is named: no default, no size
            super().__init__()

    pair = Pair(
        model=Needs,  # HERE
        guide=Guide,
    )
    return pair, reals(), "constructor", None, "default"


def broken_constructor_raises():
    class Reads(Guide):
        def __init__(self, model):
            super().__init__(model)
            self.size = model.latent_size  # HERE

    return Pair(model=Model, guide=Reads), reals(), "constructor", None, "attributes that the model has"


def broken_missing_field():
    pair = Pair(
        model=Model,
        guide=Guide,
        conditions=("y",),  # HERE
    )
    return pair, reals(), "missing-field", "y", "add 'y'"


def broken_argument():
    class Named(Model):
        def forward(self, data=None, *, n=None):  # HERE
            return super().forward(data, n=n)

    return Pair(model=Named, guide=Guide), reals(), "argument", "data", "to 'x'"


def broken_guide_argument():
    class Named(Guide):
        def forward(self, batch):  # HERE
            return super().forward(batch)

    return Pair(model=Model, guide=Named), reals(), "argument", "batch", "to 'x'"


# --- sites ----------------------------------------------------------------------------------------


def broken_typo():
    class Typo(Guide):
        def forward(self, x, *, n=None):
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("z_1", dist.Normal(self.encoder(x), self.scale).to_event(1))  # HERE

    return Pair(model=Model, guide=Typo), reals(), "missing-in-model", "z_1", "rename it to 'z'"


def broken_missing_in_guide():
    class Two(Model):
        def forward(self, x=None, *, n=None):
            with pyro.plate("data", n if x is None else len(x), dim=-1):
                z = pyro.sample("z", dist.Normal(torch.zeros(Q), 1.0).to_event(1))
                w = pyro.sample("w", dist.Normal(0.0, 1.0))
                return pyro.sample(
                    "x", dist.Normal(self.decoder(z) + w.unsqueeze(-1), 1.0).to_event(1), obs=x
                )

    class Short(Guide):
        def forward(self, x, *, n=None):  # HERE
            super().forward(x)

    return Pair(model=Two, guide=Short), reals(), "missing-in-guide", "w", "add pyro.sample('w'"


def broken_guide_observes():
    class Sees(Guide):
        def forward(self, x, *, n=None):
            super().forward(x)
            with pyro.plate("rows", len(x), dim=-1):
                pyro.sample("x", dist.Normal(x, 1.0).to_event(1), obs=x)  # HERE

    return Pair(model=Model, guide=Sees), reals(), "guide-observes", "x", "remove obs="


def broken_unscored():
    class Blind(Model):
        def forward(self, x=None, *, n=None):  # HERE
            with pyro.plate("data", n if x is None else len(x), dim=-1):
                pyro.sample("z", dist.Normal(torch.zeros(Q), 1.0).to_event(1))

    return Pair(model=Blind, guide=Guide), reals(), "unscored", "x", "obs=x"


def broken_observed_latent():
    class Forgets(Model):
        def forward(self, x=None, *, n=None):
            with pyro.plate("data", n if x is None else len(x), dim=-1):
                z = pyro.sample("z", dist.Normal(torch.zeros(Q), 1.0).to_event(1))
                return pyro.sample("x", dist.Normal(self.decoder(z), 1.0).to_event(1))  # HERE

    return Pair(model=Forgets, guide=Guide), reals(), "observed-latent", "x", "obs=x"


def broken_duplicate_site():
    class Twice(Guide):
        def forward(self, x, *, n=None):
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("z", dist.Normal(self.encoder(x), self.scale).to_event(1))
                pyro.sample("z", dist.Normal(self.encoder(x), self.scale).to_event(1))  # HERE

    return Pair(model=Model, guide=Twice), reals(), "duplicate-site", "z", "name of its own"


def broken_site_plate_name():
    class Same(Guide):
        def forward(self, x, *, n=None):
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("data", dist.Normal(self.encoder(x), self.scale).to_event(1))  # HERE

    return Pair(model=Model, guide=Same), reals(), "site-plate-name", "data", "another name"


def broken_duplicate_plate():
    class Twice(Guide):
        def forward(self, x, *, n=None):
            super().forward(x)
            with pyro.plate("data", len(x), dim=-1):  # HERE
                pass

    return Pair(model=Model, guide=Twice), reals(), "duplicate-plate", "data", "make it once"


def broken_site_param_name():
    class Same(Guide):
        def forward(self, x, *, n=None):
            pyro.param("z", torch.zeros(Q))
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("z", dist.Normal(self.encoder(x), self.scale).to_event(1))  # HERE

    return Pair(model=Model, guide=Same), reals(), "site-param-name", "z", "another name"


def broken_param_collision():
    def model(x=None, *, n=None):
        loc = pyro.param("loc", torch.zeros(D))
        with pyro.plate("data", n if x is None else len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            return pyro.sample("x", dist.Normal(loc + z.unsqueeze(-1), 1.0).to_event(1), obs=x)

    def guide(x, *, n=None):
        loc = pyro.param("loc", torch.ones(D))  # HERE
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(x @ loc, 1.0))

    return Pair(model=model, guide=guide), reals(), "param-collision", "loc", "rename"


def broken_unstable_sites():
    class Sometimes(Model):
        def forward(self, x=None, *, n=None):
            super().forward(x, n=n)
            if torch.rand(()) < 0.5:
                pyro.sample("extra", dist.Normal(0.0, 1.0), obs=torch.zeros(()))  # HERE

    return Pair(model=Sometimes, guide=Guide), reals(), "unstable-sites", "extra", "every site in every run"


def broken_bound():
    pair = Pair(
        model=Model,
        guide=Guide,
        bound="exact",  # HERE
    )
    return pair, reals(), "bound", "z", "bound='elbo'"


# --- plates ---------------------------------------------------------------------------------------


def broken_no_data_plate():
    class Bare(Model):
        def forward(self, x=None, *, n=None):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), Q), 1.0).to_event(1))  # HERE
            return pyro.sample("x", dist.Normal(self.decoder(z), 1.0).to_event(1), obs=x)

    return Pair(model=Bare, guide=Guide), reals(), "data-plate", "z", 'pyro.plate("data"'


def broken_no_data_plate_in_guide():
    class Bare(Guide):
        def forward(self, x, *, n=None):
            pyro.sample("z", dist.Normal(self.encoder(x), self.scale).to_event(1))  # HERE

    return Pair(model=Model, guide=Bare), reals(), "data-plate", "z", 'pyro.plate("data"'


def broken_plate_name():
    class Other(Model):
        def forward(self, x=None, *, n=None):
            with pyro.plate("batch", n if x is None else len(x), dim=-1):  # HERE
                z = pyro.sample("z", dist.Normal(torch.zeros(Q), 1.0).to_event(1))
                return pyro.sample("x", dist.Normal(self.decoder(z), 1.0).to_event(1), obs=x)

    return Pair(model=Other, guide=Guide), reals(), "plate-name", "batch", 'call it "data"'


def broken_plate_dim():
    class Left(Model):
        def forward(self, x=None, *, n=None):
            with pyro.plate("data", n if x is None else len(x), dim=-2):  # HERE
                z = pyro.sample("z", dist.Normal(torch.zeros(Q), 1.0))
                return pyro.sample("x", dist.Normal(self.decoder(z), 1.0), obs=x)

    return Pair(model=Left, guide=Guide), reals(), "plate-dim", "data", "dim=-1"


def broken_plate_size():
    class Fixed(Model):
        def forward(self, x=None, *, n=None):
            with pyro.plate("data", 16, dim=-1):  # HERE
                z = pyro.sample("z", dist.Normal(torch.zeros(Q), 1.0).to_event(1))
                return pyro.sample("x", dist.Normal(self.decoder(z), 1.0).to_event(1), obs=x)

    return Pair(model=Fixed, guide=Guide), reals(16), "plate-size", "data", "len(x)"


def broken_subsample():
    class Sub(Guide):
        def forward(self, x, *, n=None):
            with pyro.plate("data", len(x), subsample_size=2, dim=-1) as i:  # HERE
                pyro.sample("z", dist.Normal(self.encoder(x[i]), self.scale).to_event(1))

    return Pair(model=Model, guide=Sub), reals(), "subsample", "data", "len(x)"


def broken_outside_plate():
    class Outside(Guide):
        def forward(self, x, *, n=None):
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("z", dist.Normal(self.encoder(x), self.scale).to_event(1))
            pyro.sample("w", dist.Normal(x.mean(-1), 1.0).to_event(1))  # HERE

    class Local(Model):
        def forward(self, x=None, *, n=None):
            with pyro.plate("data", n if x is None else len(x), dim=-1):
                w = pyro.sample("w", dist.Normal(0.0, 1.0))
                z = pyro.sample("z", dist.Normal(torch.zeros(Q), 1.0).to_event(1))
                return pyro.sample(
                    "x", dist.Normal(self.decoder(z) + w.unsqueeze(-1), 1.0).to_event(1), obs=x
                )

    return Pair(model=Local, guide=Outside), reals(), "outside-plate", "w", "plate 'data'"


def broken_event_of_rows():
    class Joint(Guide):
        def forward(self, x, *, n=None):
            super().forward(x)
            pyro.sample("w", dist.Normal(x.mean(-1), 1.0).to_event(1))  # HERE

    class Global(Model):
        def forward(self, x=None, *, n=None):
            rows = n if x is None else len(x)
            w = pyro.sample("w", dist.Normal(torch.zeros(rows), 1.0).to_event(1))
            with pyro.plate("data", rows, dim=-1):
                z = pyro.sample("z", dist.Normal(torch.zeros(Q), 1.0).to_event(1))
                loc = self.decoder(z) + w.unsqueeze(-1)
                return pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)

    return Pair(model=Global, guide=Joint), reals(), "outside-plate", "w", 'pyro.plate("data"'


def broken_observed_outside():
    class Outside(Model):
        def forward(self, x=None, *, n=None):
            with pyro.plate("data", n if x is None else len(x), dim=-1):
                z = pyro.sample("z", dist.Normal(torch.zeros(Q), 1.0).to_event(1))
            return pyro.sample("x", dist.Normal(self.decoder(z), 1.0).to_event(2), obs=x)  # HERE

    return Pair(model=Outside, guide=Guide), reals(), "outside-plate", "x", "its own log p"


class Words(Model):
    def forward(self, x=None, *, n=None):
        rows = n if x is None else len(x)
        data = pyro.plate("data", rows, dim=-1)
        with data:
            z = pyro.sample("z", dist.Normal(torch.zeros(Q), 1.0).to_event(1))
            loc = self.decoder(z)
            with pyro.plate("words", D, dim=-2):
                seen = None if x is None else x.T
                return pyro.sample(
                    "x", dist.Normal(loc.movedim(-1, -2).reshape(*loc.shape[:-2], D, -1), 1.0), obs=seen
                )


def broken_plates():
    class Deep(Words):
        def forward(self, x=None, *, n=None):
            with pyro.plate("data", n if x is None else len(x), dim=-1):
                z = pyro.sample("z", dist.Normal(torch.zeros(Q), 1.0).to_event(1))
                with pyro.plate("words", D, dim=-2):
                    return pyro.sample("x", dist.Normal(self.decoder(z).mT, 1.0), obs=x.T)  # HERE

    return Pair(model=Deep, guide=Guide), reals(), "plates", "words", "plates=2"


def broken_plates_differ():
    class Flat(Guide):
        def forward(self, x, *, n=None):
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("z", dist.Normal(self.encoder(x)[:, 0], self.scale[0]))  # HERE

    class Deep(Model):
        def forward(self, x=None, *, n=None):
            with pyro.plate("data", n if x is None else len(x), dim=-1):
                with pyro.plate("parts", Q, dim=-2):
                    z = pyro.sample("z", dist.Normal(0.0, 1.0))
                return pyro.sample("x", dist.Normal(self.decoder(z.mT), 1.0).to_event(1), obs=x)

    return Pair(model=Deep, guide=Flat, plates=2), reals(), "plates-differ", "z", "plate 'parts'"


# --- shapes ---------------------------------------------------------------------------------------


def broken_to_event():
    class Short(Model):
        def forward(self, x=None, *, n=None):
            with pyro.plate("data", n if x is None else len(x), dim=-1):
                z = pyro.sample("z", dist.Normal(torch.zeros(Q), 1.0).to_event(1))
                return pyro.sample("x", dist.Normal(self.decoder(z), 1.0), obs=x)  # HERE

    return Pair(model=Short, guide=Guide), reals(), "to-event", "x", ".to_event(1)"


def broken_event_shape():
    class Small(Guide):
        def __init__(self, model):
            super().__init__(model)
            self.encoder = nn.Linear(D, 2)
            self.scale = PyroParam(torch.ones(2), constraints.positive)

        def forward(self, x, *, n=None):
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("z", dist.Normal(self.encoder(x), self.scale).to_event(1))  # HERE

    return Pair(model=Model, guide=Small), reals(), "event-shape", "z", "event_shape (3,)"


def broken_observed_event_shape():
    data = {"x": reals()["x"].unflatten(-1, (2, 2))}

    class Flat(Guide):
        def forward(self, x, *, n=None):
            super().forward(x.flatten(1))

    class Sees(Model):
        def forward(self, x=None, *, n=None):
            with pyro.plate("data", n if x is None else len(x), dim=-1):
                z = pyro.sample("z", dist.Normal(torch.zeros(Q), 1.0).to_event(1))
                return pyro.sample("x", dist.Normal(self.decoder(z), 1.0).to_event(1), obs=x)  # HERE

    return Pair(model=Sees, guide=Flat), data, "event-shape", "x", "flatten"


class Scalar(Guide):
    def __init__(self, model):
        super().__init__(model)
        self.encoder = nn.Linear(1, Q)

    def forward(self, x, *, n=None):
        super().forward(x.reshape(-1, 1))


def broken_broadcast():
    class Column(Model):
        def __init__(self):
            super().__init__()
            self.decoder = nn.Linear(Q, 1)

        def forward(self, x=None, *, n=None):
            with pyro.plate("data", n if x is None else len(x), dim=-1):
                z = pyro.sample("z", dist.Normal(torch.zeros(Q), 1.0).to_event(1))
                return pyro.sample("x", dist.Normal(self.decoder(z), 1.0), obs=x)  # HERE

    return Pair(model=Column, guide=Scalar), {"x": reals()["x"][:, 0]}, "broadcast", "x", ".squeeze(-1)"


def broken_broadcast_data():
    class Row(Model):
        def __init__(self):
            super().__init__()
            self.decoder = nn.Linear(Q, 1)

        def forward(self, x=None, *, n=None):
            with pyro.plate("data", n if x is None else len(x), dim=-1):
                z = pyro.sample("z", dist.Normal(torch.zeros(Q), 1.0).to_event(1))
                return pyro.sample("x", dist.Normal(self.decoder(z).squeeze(-1), 1.0), obs=x)  # HERE

    return Pair(model=Row, guide=Scalar), {"x": reals()["x"][:, :1]}, "broadcast", "x", ".to_event(1)"


def broken_shape():
    class Wide(Guide):
        def __init__(self, model):
            super().__init__(model)
            self.encoder = nn.Linear(D + 1, Q)

        def forward(self, x, *, n=None):
            loc = self.encoder(x)  # HERE
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("z", dist.Normal(loc, self.scale).to_event(1))

    return Pair(model=Model, guide=Wide), reals(), "shape", None, "sizes of the nets"


def broken_dtype():
    class Doubles(Guide):
        def forward(self, x, *, n=None):
            loc = self.encoder(x.double())  # HERE
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("z", dist.Normal(loc, self.scale).to_event(1))

    return Pair(model=Model, guide=Doubles), reals(), "dtype", None, ".float()"


def broken_dtype_of_labels():
    class Uses(Guide):
        def forward(self, x, *, n=None):
            loc = self.encoder(x)  # HERE
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("z", dist.Normal(loc, self.scale).to_event(1))

    return Pair(model=Model, guide=Uses), {"x": torch.ones(40, D).long()}, "dtype", None, "x.float()"


def broken_dtype_of_constants():
    class Zeros(Model):
        def forward(self, x=None, *, n=None):
            with pyro.plate("data", n if x is None else len(x), dim=-1):
                z = pyro.sample("z", dist.Normal(torch.zeros(Q), 1.0).to_event(1))
                loc = self.decoder(z.float())  # HERE
                return pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)

    return Pair(model=Zeros, guide=Guide), {"x": reals()["x"].double()}, "dtype", None, "new_zeros"


def broken_exception():
    class Raises(Guide):
        def forward(self, x, *, n=None):
            super().forward(x)
            raise ZeroDivisionError("oh")  # HERE

    return Pair(model=Model, guide=Raises), reals(), "exception", None, "one batch"


def broken_none_input():
    class Labels(Model):
        def forward(self, x=None, y=None, *, n=None):
            shift = y.float()  # HERE
            return super().forward(x + shift)

    return Pair(model=Labels, guide=Guide), reals(), "none-input", None, "conditions"


def broken_out_of_range():
    class Embeds(Model):
        def __init__(self):
            super().__init__()
            self.labels = nn.Embedding(3, D)

        def forward(self, x=None, *, y, n=None):
            shift = self.labels(y)  # HERE
            with pyro.plate("data", len(y), dim=-1):
                z = pyro.sample("z", dist.Normal(torch.zeros(Q), 1.0).to_event(1))
                return pyro.sample("x", dist.Normal(self.decoder(z) + shift, 1.0).to_event(1), obs=x)

    data = {**reals(), "y": torch.full((40,), 4)}
    return Pair(model=Embeds, guide=Guide, conditions=("y",)), data, "out-of-range", None, "5 entries"


def broken_batch_size():
    class Fixed(Guide):
        def forward(self, x, *, n=None):
            noise = torch.zeros(5 if len(x) == 5 else 2, D)
            loc = self.encoder(x + noise)  # HERE
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("z", dist.Normal(loc, self.scale).to_event(1))

    return Pair(model=Model, guide=Fixed), reals(), "batch-size", None, "number of rows"


# --- values ---------------------------------------------------------------------------------------


def broken_support():
    class Positive(Model):
        def forward(self, x=None, *, n=None):
            with pyro.plate("data", n if x is None else len(x), dim=-1):
                z = pyro.sample("z", dist.Gamma(torch.ones(Q), 1.0).to_event(1))
                return pyro.sample("x", dist.Normal(self.decoder(z), 1.0).to_event(1), obs=x)

    class Normal(Guide):
        def forward(self, x, *, n=None):
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("z", dist.Normal(self.encoder(x), self.scale).to_event(1))  # HERE

    return Pair(model=Positive, guide=Normal), reals(), "support", "z", "LogNormal"


def broken_simplex():
    class Simplex(Model):
        def forward(self, x=None, *, n=None):
            with pyro.plate("data", n if x is None else len(x), dim=-1):
                z = pyro.sample("z", dist.Dirichlet(torch.ones(Q)))
                return pyro.sample("x", dist.Normal(self.decoder(z), 1.0).to_event(1), obs=x)

    class Normal(Guide):
        def forward(self, x, *, n=None):
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("z", dist.Normal(self.encoder(x), self.scale).to_event(1))  # HERE

    return Pair(model=Simplex, guide=Normal), reals(), "support", "z", "Dirichlet"


class Bernoulli(Model):
    def forward(self, x=None, *, n=None):
        with pyro.plate("data", n if x is None else len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(Q), 1.0).to_event(1))
            p = dist.Bernoulli(logits=self.decoder(z), validate_args=False).to_event(1)
            return pyro.sample("x", p, obs=x)  # grey


def broken_grey():
    class Grey(Bernoulli):
        def forward(self, x=None, *, n=None):
            with pyro.plate("data", n if x is None else len(x), dim=-1):
                z = pyro.sample("z", dist.Normal(torch.zeros(Q), 1.0).to_event(1))
                p = dist.Bernoulli(logits=self.decoder(z), validate_args=False).to_event(1)
                return pyro.sample("x", p, obs=x)  # HERE

    return (
        Pair(model=Grey, guide=Guide),
        {"x": torch.rand(40, D)},
        "data-support",
        "x",
        "--binarization dynamic",
    )


def broken_counts():
    class Counts(Model):
        def forward(self, x=None, *, n=None):
            with pyro.plate("data", n if x is None else len(x), dim=-1):
                z = pyro.sample("z", dist.Normal(torch.zeros(Q), 1.0).to_event(1))
                return pyro.sample("x", dist.Poisson(softplus(self.decoder(z))).to_event(1), obs=x)  # HERE

    return Pair(model=Counts, guide=Guide), {"x": torch.rand(40, D) * 5}, "data-support", "x", "counts"


def broken_labels():
    class Labels(Model):
        def forward(self, x=None, *, n=None):
            with pyro.plate("data", n if x is None else len(x), dim=-1):
                z = pyro.sample("z", dist.Normal(torch.zeros(Q), 1.0).to_event(1))
                return pyro.sample("x", dist.Categorical(logits=self.decoder(z)), obs=x)  # HERE

    class Embeds(Guide):
        def __init__(self, model):
            super().__init__(model)
            self.encoder = nn.Embedding(10, Q)

    return Pair(model=Labels, guide=Embeds), {"x": torch.arange(40) % 10}, "data-support", "x", "10 classes"


def broken_nonfinite_data():
    data = reals()
    data["x"][39, 0] = float("nan")

    class Sees(Model):
        def forward(self, x=None, *, n=None):
            with pyro.plate("data", n if x is None else len(x), dim=-1):
                z = pyro.sample("z", dist.Normal(torch.zeros(Q), 1.0).to_event(1))
                p = dist.Normal(self.decoder(z), 1.0, validate_args=False).to_event(1)
                return pyro.sample("x", p, obs=x)  # HERE

    class Zeros(Guide):
        def forward(self, x, *, n=None):
            super().forward(x.nan_to_num())

    return Pair(model=Sees, guide=Zeros), data, "nonfinite-data", "x", "mask"


def broken_discrete():
    class Picks(Model):
        def __init__(self):
            super().__init__()
            self.decoder = nn.Embedding(Q, D)

        def forward(self, x=None, *, n=None):
            with pyro.plate("data", n if x is None else len(x), dim=-1):
                c = pyro.sample("c", dist.Categorical(torch.ones(Q)))
                return pyro.sample("x", dist.Normal(self.decoder(c), 1.0).to_event(1), obs=x)

    class Infers(Guide):
        def __init__(self, model):
            super().__init__(model)
            del self.scale

        def forward(self, x, *, n=None):
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("c", dist.Categorical(logits=self.encoder(x)))  # HERE

    return Pair(model=Picks, guide=Infers), reals(), "not-reparameterized", "c", "'enumerate'"


def broken_continuous():
    class Angle(Model):
        def __init__(self):
            super().__init__()
            self.decoder = nn.Linear(1, D)

        def forward(self, x=None, *, n=None):
            with pyro.plate("data", n if x is None else len(x), dim=-1):
                a = pyro.sample("a", dist.VonMises(0.0, 1.0))
                return pyro.sample("x", dist.Normal(self.decoder(a.unsqueeze(-1)), 1.0).to_event(1), obs=x)

    class Infers(Guide):
        def forward(self, x, *, n=None):
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("a", dist.VonMises(self.encoder(x)[..., 0], self.scale[0]))  # HERE

    return Pair(model=Angle, guide=Infers), reals(), "not-reparameterized", "a", "'score'"


def broken_enumerate():
    class Continuous(Guide):
        def forward(self, x, *, n=None):
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("z", dist.Normal(self.encoder(x), self.scale).to_event(1))  # HERE

    pair = Pair(model=Model, guide=Continuous, discrete={"z": "enumerate"})
    return pair, reals(), "enumerate", "z", "take 'z' out"


def broken_scale():
    class Scaled(Model):
        def forward(self, x=None, *, n=None):
            rows = n if x is None else len(x)
            with pyro.plate("data", rows, dim=-1), poutine.scale(scale=40 / rows):
                z = pyro.sample("z", dist.Normal(torch.zeros(Q), 1.0).to_event(1))  # HERE
                return pyro.sample("x", dist.Normal(self.decoder(z), 1.0).to_event(1), obs=x)

    return Pair(model=Scaled, guide=Guide), reals(40), "scale", "z", "unscaled"


def broken_constraint():
    class Negative(Guide):
        def forward(self, x, *, n=None):
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("z", dist.Normal(self.encoder(x), -self.scale).to_event(1))  # HERE

    return Pair(model=Model, guide=Negative), reals(), "constraint", None, "softplus"


def broken_nonfinite():
    class Zero(Model):
        def forward(self, x=None, *, n=None):
            with pyro.plate("data", n if x is None else len(x), dim=-1):
                z = pyro.sample("z", dist.Normal(torch.zeros(Q), 1.0).to_event(1))
                p = dist.Normal(self.decoder(z), torch.zeros(()), validate_args=False).to_event(1)
                return pyro.sample("x", p, obs=x)  # HERE

    return Pair(model=Zero, guide=Guide), reals(), "nonfinite", "x", "scale of 0"


# --- parameters -----------------------------------------------------------------------------------


def broken_no_gradient():
    class Unused(Model):
        def __init__(self):
            super().__init__()
            self.extra = nn.Linear(2, 2)  # HERE

    return (
        Pair(model=Unused, guide=Guide),
        reals(),
        "no-gradient",
        "model.extra.weight",
        "requires_grad_(False)",
    )


def broken_detached():
    class Detached(Guide):
        def __init__(self, model):
            super().__init__(model)
            self.encoder = nn.Linear(D, Q)  # HERE

        def forward(self, x, *, n=None):
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("z", dist.Normal(self.encoder(x).detach(), self.scale).to_event(1))

    return Pair(model=Model, guide=Detached), reals(), "no-gradient", "guide.encoder.weight", ".detach()"


def broken_list():
    class Listed(Guide):
        def __init__(self, model):
            super().__init__(model)
            self.encoder = None
            self.layers = [nn.Linear(D, Q)]  # HERE

        def forward(self, x, *, n=None):
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("z", dist.Normal(self.layers[0](x), self.scale).to_event(1))

    return Pair(model=Model, guide=Listed), reals(), "unregistered", "guide.layers[0].weight", "nn.ModuleList"


def broken_dict():
    class Kept(Model):
        def __init__(self):
            super().__init__()
            self.decoder = None
            self.nets = {"x": nn.Linear(Q, D)}  # HERE

        def forward(self, x=None, *, n=None):
            with pyro.plate("data", n if x is None else len(x), dim=-1):
                z = pyro.sample("z", dist.Normal(torch.zeros(Q), 1.0).to_event(1))
                return pyro.sample("x", dist.Normal(self.nets["x"](z), 1.0).to_event(1), obs=x)

    return Pair(model=Kept, guide=Guide), reals(), "unregistered", "model.nets['x'].weight", "nn.ModuleDict"


def broken_closure():
    net = nn.Linear(D, Q)  # HERE

    def guide(x, *, n=None):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(net(x), 1.0).to_event(1))

    return Pair(model=Model, guide=guide), reals(), "unregistered", "guide: net.weight", "class"


# --- coupling -------------------------------------------------------------------------------------


def broken_leakage():
    class Centres(Guide):
        def forward(self, x, *, n=None):
            with pyro.plate("data", len(x), dim=-1):
                loc = self.encoder(x - x.mean(0))
                pyro.sample("z", dist.Normal(loc, self.scale).to_event(1))  # HERE

    return Pair(model=Model, guide=Centres), reals(), "leakage", "z", "mix rows"


def broken_particles():
    class Views(Model):
        def forward(self, x=None, *, n=None):
            with pyro.plate("data", n if x is None else len(x), dim=-1):
                z = pyro.sample("z", dist.Normal(torch.zeros(Q), 1.0).to_event(1))
                loc = self.decoder(z.flatten(1))  # HERE
                return pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)

    return Pair(model=Views, guide=Guide), reals(), "particles", None, "vectorize=False"


def broken_particles_silently():
    class Softmax(Model):
        def forward(self, x=None, *, n=None):
            with pyro.plate("data", n if x is None else len(x), dim=-1):
                z = pyro.sample("z", dist.Normal(torch.zeros(Q), 1.0).to_event(1))
                loc = self.decoder(z).softmax(1)
                return pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)  # HERE

    return Pair(model=Softmax, guide=Guide), reals(), "particles", "x", "vectorize=False"


def broken_cannot_sample():
    class Len(Model):
        def forward(self, x=None, *, n=None):
            with pyro.plate("data", len(x), dim=-1):  # HERE
                z = pyro.sample("z", dist.Normal(torch.zeros(Q), 1.0).to_event(1))
                return pyro.sample("x", dist.Normal(self.decoder(z), 1.0).to_event(1), obs=x)

    return Pair(model=Len, guide=Guide), reals(), "cannot-sample", None, "n if x is None"


# --- one more of each kind ------------------------------------------------------------------------


def broken_observed_name():
    class Obs(Model):
        def forward(self, x=None, *, n=None):
            with pyro.plate("data", n if x is None else len(x), dim=-1):
                z = pyro.sample("z", dist.Normal(torch.zeros(Q), 1.0).to_event(1))
                return pyro.sample("obs", dist.Normal(self.decoder(z), 1.0).to_event(1), obs=x)  # HERE

    return Pair(model=Obs, guide=Guide), reals(), "observed-name", "x", "rename the site to 'x'"


def broken_user_scale():
    class Scaled(Model):
        def forward(self, x=None, *, n=None):
            with pyro.plate("data", n if x is None else len(x), dim=-1):
                with poutine.scale(scale=0.5):
                    z = pyro.sample("z", dist.Normal(torch.zeros(Q), 1.0).to_event(1))  # HERE
                return pyro.sample("x", dist.Normal(self.decoder(z), 1.0).to_event(1), obs=x)

    return Pair(model=Scaled, guide=Guide), reals(), "scale", "z", "elbo:beta="


def broken_sizes():
    pair = Pair(
        model=Model,
        guide=Guide,
        sizes={"width": 3},  # HERE
    )
    return pair, reals(), "sizes", "width", "remove it"


def broken_condition():
    class Labelled(Model):
        def forward(self, x=None, *, y, n=None):
            with pyro.plate("data", len(y), dim=-1):
                pyro.sample("label", dist.Categorical(logits=torch.zeros(2)), obs=y.long())  # HERE
                z = pyro.sample("z", dist.Normal(torch.zeros(Q), 1.0).to_event(1))
                loc = self.decoder(z) + y.unsqueeze(-1)
                return pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)

    data = {**reals(), "y": (torch.arange(40) % 2).float()}
    return Pair(model=Labelled, guide=Guide, conditions=("y",)), data, "condition-scored", "y", "given"


def broken_sequential():
    class Loops(Guide):
        def forward(self, x, *, n=None):
            loc = self.encoder(x)
            for i in pyro.plate("data", len(x)):  # HERE
                pyro.sample("z", dist.Normal(loc[i], self.scale).to_event(1))

    return Pair(model=Model, guide=Loops), reals(), "sequential", "data", "with pyro.plate"


def broken_two_sizes():
    class Sixty(Model):
        def forward(self, x=None, *, n=None):
            rows = n if x is None else len(x)
            with pyro.plate("data", 60, subsample_size=rows, dim=-1):  # HERE
                z = pyro.sample("z", dist.Normal(torch.zeros(Q), 1.0).to_event(1))
                return pyro.sample("x", dist.Normal(self.decoder(z), 1.0).to_event(1), obs=x)

    return Pair(model=Sixty, guide=Guide), reals(40), "subsample", "data", "len(x)"


def broken_swallowed_latent():
    class Swallows(Guide):
        def forward(self, x, *, n=None):
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("z", dist.Normal(self.encoder(x), self.scale).to_event(2))  # HERE

    return Pair(model=Model, guide=Swallows), reals(), "to-event", "z", "write .to_event(1)"


def broken_swallowed_data():
    class Swallows(Model):
        def forward(self, x=None, *, n=None):
            with pyro.plate("data", n if x is None else len(x), dim=-1):
                z = pyro.sample("z", dist.Normal(torch.zeros(Q), 1.0).to_event(1))
                return pyro.sample("x", dist.Normal(self.decoder(z), 1.0).to_event(2), obs=x)  # HERE

    return Pair(model=Swallows, guide=Guide), reals(), "to-event", "x", "write .to_event(1)"


def broken_noise_in_guide():
    class Noisy(Guide):
        def forward(self, x, *, n=None):
            loc = self.encoder(x)
            loc = loc + torch.randn(Q)  # HERE
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("z", dist.Normal(loc, self.scale).to_event(1))

    return Pair(model=Model, guide=Noisy), reals(), "unrecorded-noise", None, "is_auxiliary"


def broken_dropout_in_evaluation():
    class Drops(Model):
        def forward(self, x=None, *, n=None):
            with pyro.plate("data", n if x is None else len(x), dim=-1):
                z = pyro.sample("z", dist.Normal(torch.zeros(Q), 1.0).to_event(1))
                loc = self.decoder(nn.functional.dropout(z))  # HERE
                return pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)

    return Pair(model=Drops, guide=Guide), reals(), "unrecorded-noise", None, "nn.Dropout"


def broken_noise_of_numpy():
    class Noisy(Guide):
        def forward(self, x, *, n=None):
            loc = self.encoder(x) + np.random.randn()
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("z", dist.Normal(loc, self.scale).to_event(1))  # HERE

    return Pair(model=Model, guide=Noisy), reals(), "unrecorded-noise", "z", "is_auxiliary"


def broken_leakage_of_latents():
    class Centres(Model):
        def forward(self, x=None, *, n=None):
            with pyro.plate("data", n if x is None else len(x), dim=-1):
                z = pyro.sample("z", dist.Normal(torch.zeros(Q), 1.0).to_event(1))
                loc = self.decoder(z - z.mean(-2, keepdim=True))
                return pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)  # HERE

    return Pair(model=Centres, guide=Guide), reals(), "leakage", "x", "mix rows"


def broken_statistic_of_rows():
    class Standardizes(Guide):
        def forward(self, x, *, n=None):
            loc = self.encoder((x - x.mean(0)) / x.std(0))
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("z", dist.Normal(loc, self.scale).to_event(1))  # HERE

    return Pair(model=Model, guide=Standardizes), reals(), "batch-size", None, "training set"


def broken_enumeration():
    class Joins(Model):
        def __init__(self):
            super().__init__()
            self.decoder = nn.Linear(Q + 2, D)

        def forward(self, x=None, *, n=None):
            with pyro.plate("data", n if x is None else len(x), dim=-1):
                z = pyro.sample("z", dist.Normal(torch.zeros(Q), 1.0).to_event(1))
                c = pyro.sample("c", dist.Categorical(torch.ones(2)))
                both = torch.cat([z, nn.functional.one_hot(c, 2).float()], -1)  # HERE
                return pyro.sample("x", dist.Normal(self.decoder(both), 1.0).to_event(1), obs=x)

    pair = Pair(model=Joins, guide=Guide, discrete={"c": "enumerate"})
    return pair, reals(), "enumeration", None, "torch.cat"


def broken_n_ignored():
    class One(Model):
        def forward(self, x=None, *, n=None):
            with pyro.plate("data", 1 if x is None else len(x), dim=-1):
                z = pyro.sample("z", dist.Normal(torch.zeros(Q), 1.0).to_event(1))
                return pyro.sample("x", dist.Normal(self.decoder(z), 1.0).to_event(1), obs=x)  # HERE

    return Pair(model=One, guide=Guide), reals(), "cannot-sample", "x", "rows = n"


def broken_exception_of_many_lines():
    text = "\nError while computing log_prob:\n  of   site\nTrace Shapes:\n z 5 | 3"

    class Raises(Guide):
        def forward(self, x, *, n=None):
            super().forward(x)
            raise ValueError(text)  # HERE

    return Pair(model=Model, guide=Raises), reals(), "exception", None, "one batch"


EXAMPLES = [f for name, f in sorted(globals().items()) if name.startswith("broken_")]


def marked(example) -> int:
    lines, start = inspect.getsourcelines(example)
    return start + next(i for i, line in enumerate(lines) if "# HERE" in line)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda f: f.__name__.removeprefix("broken_"))
def test_a_broken_pair_gets_its_one_finding(example):
    pair, data, code, site, fix = example()
    report = check(pair, data)
    assert not report.ok
    first = report.of("error")[0]
    assert first.code == code, str(report)
    assert {f.code for f in report.of("error")} == {code}, "one right finding, no follow-ups"
    assert Path(first.file or "").name == "test_linter.py"
    assert first.line == marked(example), str(first)
    if site is not None:
        assert first.site == site
        assert site in first.message
    assert fix in first.fix
    assert str(first).count("\n") == 0
    assert f"test_linter.py:{first.line}: error: " in str(first)
    with pytest.raises(PairError, match=r"test_linter\.py"):
        report.raise_if_broken()


# --- sound pairs ----------------------------------------------------------------------------------


def sound_plain():
    return Pair(model=Model, guide=Guide), reals()


def sound_binarized():
    return Pair(model=Bernoulli, guide=Guide), bits()


def sound_word_plate():
    return Pair(model=Words, guide=Guide, plates=2, vectorize=False), reals()


def sound_functions():
    def model(x=None, *, n=None):
        loc = pyro.param("loc", torch.zeros(D))
        with pyro.plate("data", n if x is None else len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            return pyro.sample("x", dist.Normal(loc + z.unsqueeze(-1), 1.0).to_event(1), obs=x)

    def guide(x, *, n=None):
        weight = pyro.param("weight", lambda: torch.randn(D))
        scale = pyro.param("scale", torch.ones(()), constraint=constraints.positive)
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(x @ weight, scale))

    return Pair(model=model, guide=guide), reals()


def sound_exact():
    class Flat(PyroModule):
        def __init__(self):
            super().__init__()
            self.logits = nn.Parameter(torch.zeros(D))

        def forward(self, x=None, *, n=None):
            with pyro.plate("data", n if x is None else len(x), dim=-1):
                return pyro.sample("x", dist.Bernoulli(logits=self.logits).to_event(1), obs=x)

    return Pair(model=Flat, guide=lambda x, n=None: None, bound="exact"), bits()


class Stock(nn.Module):
    """As in Pyro's tutorial, with the data plate and the site named as the field."""

    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = nn.Linear(D, Q), nn.Linear(Q, D)

    def model(self, x=None, n=None):
        pyro.module("decoder", self.decoder)
        with pyro.plate("data", n if x is None else x.shape[0]):
            z = pyro.sample("z", dist.Normal(torch.zeros(Q), 1.0).to_event(1))
            return pyro.sample("x", dist.Normal(self.decoder(z), 1.0).to_event(1), obs=x)

    def guide(self, x, n=None):
        pyro.module("encoder", self.encoder)
        with pyro.plate("data", x.shape[0]):
            pyro.sample("z", dist.Normal(self.encoder(x), 1.0).to_event(1))


def sound_stock():
    return Pair(model=Stock), reals()


def sound_frozen_dropout_and_penalty():
    class Rich(Model):
        def __init__(self):
            super().__init__()
            self.drop = nn.Dropout(0.5)
            self.frozen = nn.Parameter(torch.zeros(3), requires_grad=False)
            self.critic = nn.Linear(D, 1)

        def forward(self, x=None, *, n=None):
            with pyro.plate("data", n if x is None else len(x), dim=-1):
                z = pyro.sample("z", dist.Normal(torch.zeros(Q), 1.0).to_event(1))
                loc = self.decoder(self.drop(z))
                x = pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)
            penalty("critic", self.critic(x).square().mean(), group="adversary")
            return x

    return Pair(model=Rich, guide=Guide, groups={"adversary": ("model.critic",)}), reals()


def sound_enumerated_mixture():
    class Mixture(PyroModule):
        def __init__(self):
            super().__init__()
            self.loc = nn.Parameter(torch.randn(Q, D))

        def forward(self, x=None, *, n=None):
            with pyro.plate("data", n if x is None else len(x), dim=-1):
                c = pyro.sample("c", dist.Categorical(torch.ones(Q)))
                return pyro.sample("x", dist.Normal(self.loc[c], 1.0).to_event(1), obs=x)

    return Pair(model=Mixture, guide=lambda x, n=None: None, discrete={"c": "enumerate"}), reals()


def sound_global():
    class Regression(PyroModule):
        def forward(self, y=None, *, x, n=None):
            w = pyro.sample("w", dist.Normal(torch.zeros(D), 1.0).to_event(1))
            with pyro.plate("data", len(x), dim=-1):
                loc = (x * w).sum(-1)
                return pyro.sample("y", dist.Normal(loc, 1.0), obs=y)

    class Weights(PyroModule):
        def __init__(self, model):
            super().__init__()
            self.loc = nn.Parameter(torch.zeros(D))

        def forward(self, y=None, *, x, n=None):
            pyro.sample("w", dist.Normal(self.loc, 1.0).to_event(1))

    data = {**reals(), "y": torch.randn(40)}
    return Pair(model=Regression, guide=Weights, observed=("y",), conditions=("x",)), data


def sound_undirected():
    class Ising(PyroModule):
        def __init__(self):
            super().__init__()
            self.pull = nn.Parameter(torch.ones(()))

        def forward(self):
            with pyro.plate("spins", 3, dim=-1):
                z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.factor("energy", self.pull * z.tanh().sum(-1, keepdim=True))

    class Field(PyroModule):
        def __init__(self, model):
            super().__init__()
            self.loc = nn.Parameter(torch.zeros(3))

        def forward(self):
            with pyro.plate("spins", 3, dim=-1):
                pyro.sample("z", dist.Normal(self.loc, 1.0))

    return Pair(model=Ising, guide=Field, data=None, observed=()), None


def sound_unit_interval_in_positive():
    class Positive(Model):
        def forward(self, x=None, *, n=None):
            with pyro.plate("data", n if x is None else len(x), dim=-1):
                z = pyro.sample("z", dist.Gamma(torch.ones(Q), 1.0).to_event(1))
                return pyro.sample("x", dist.Normal(self.decoder(z), 1.0).to_event(1), obs=x)

    class Fractions(Guide):
        def forward(self, x, *, n=None):
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("z", dist.Beta(softplus(self.encoder(x)) + 0.1, self.scale).to_event(1))

    return Pair(model=Positive, guide=Fractions), reals()


def sound_double():
    return Pair(model=Model, guide=Guide), {"x": reals()["x"].double()}


def sound_dropout():
    class Drops(Guide):
        def __init__(self, model):
            super().__init__(model)
            self.encoder = nn.Sequential(nn.Linear(D, Q), nn.Dropout(0.5))

    return Pair(model=Model, guide=Drops), reals()


def sound_random_bound():
    """An estimate of a bound at a random time, as in diffusion, is marked as one."""

    class Chain(Model):
        def forward(self, x=None, *, n=None):
            with pyro.plate("data", n if x is None else len(x), dim=-1):
                z = pyro.sample("z", dist.Normal(torch.zeros(Q), 1.0).to_event(1))
                time = torch.rand(z.shape[:-1])
                bound = dist.Unit(-time * self.decoder(z).square().sum(-1))
                pyro.sample("bound", bound, obs=bound.sample(), infer={"is_bound": True})
                return pyro.sample("x", dist.Normal(self.decoder(z), 1.0).to_event(1), obs=x)

    return Pair(model=Chain, guide=Guide), reals()


def sound_random_loss():
    class Noisy(Guide):
        def forward(self, x, *, n=None):
            super().forward(x + 0.1 * torch.randn_like(x))

    return Pair(model=Model, guide=Noisy, bound="none"), reals()


SOUND = [f for name, f in sorted(globals().items()) if name.startswith("sound_")]


@pytest.mark.parametrize("example", SOUND, ids=lambda f: f.__name__.removeprefix("sound_"))
def test_a_sound_pair_gets_nothing(example):
    pair, data = example()
    report = check(pair, data)
    assert report.ok, str(report)
    assert not report.of("warning"), str(report)
    assert report.raise_if_broken() is report


@pytest.mark.parametrize("name", ["ppca", "ppca_full", "ppca_mean_field"])
def test_the_ppca_pairs_are_sound(name):
    assert not check(name, reals(dim=10)).findings


# --- warnings -------------------------------------------------------------------------------------


def warned_batchnorm():
    class Norm(Guide):
        def __init__(self, model):
            super().__init__(model)
            self.norm = nn.BatchNorm1d(Q)  # HERE

        def forward(self, x, *, n=None):
            loc = self.norm(self.encoder(x))
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("z", dist.Normal(loc, self.scale).to_event(1))

    return Pair(model=Model, guide=Norm), reals(), "batchnorm", "LayerNorm"


def warned_subsample():
    """The full size is that of the data: Pyro's own way, which the library undoes."""

    class Whole(Model):
        def forward(self, x=None, *, n=None):
            rows = n if x is None else len(x)
            with pyro.plate("data", 40, subsample_size=rows, dim=-1):  # HERE
                z = pyro.sample("z", dist.Normal(torch.zeros(Q), 1.0).to_event(1))
                return pyro.sample("x", dist.Normal(self.decoder(z), 1.0).to_event(1), obs=x)

    return Pair(model=Whole, guide=Guide), reals(40), "subsample", "pyro.plate"


def warned_improper_prior():
    class Improper(Model):
        def forward(self, x=None, *, n=None):
            with pyro.plate("data", n if x is None else len(x), dim=-1):
                prior = dist.ImproperUniform(constraints.real_vector, (), (Q,))
                z = pyro.sample("z", prior)  # HERE
                return pyro.sample("x", dist.Normal(self.decoder(z), 1.0).to_event(1), obs=x)

    return Pair(model=Improper, guide=Guide), reals(), "cannot-sample", "proper prior"


def warned_plates():
    pair = Pair(
        model=Model,
        guide=Guide,
        plates=2,  # HERE
    )
    return pair, reals(), "plates", "plates=1"


def warned_cannot_sample():
    class Needs(Model):
        def forward(self, x):  # HERE
            super().forward(x)

    return Pair(model=Needs, guide=Guide), reals(), "cannot-sample", "x=None"


def warned_unamortized():
    class Constant(Guide):
        def __init__(self, model):
            super().__init__(model)
            del self.encoder

        def forward(self, x, *, n=None):
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("z", dist.Normal(torch.zeros(Q), self.scale).to_event(1))  # HERE

    return Pair(model=Model, guide=Constant), reals(), "unamortized", "in front of the plate"


def warned_zero_gradient():
    class Rounds(Model):
        def __init__(self):
            super().__init__()
            self.shift = nn.Parameter(torch.zeros(()))  # HERE

        def forward(self, x=None, *, n=None):
            with pyro.plate("data", n if x is None else len(x), dim=-1):
                z = pyro.sample("z", dist.Normal(torch.zeros(Q), 1.0).to_event(1))
                loc = self.decoder(z) + self.shift.round()
                return pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)

    return Pair(model=Rounds, guide=Guide), reals(), "zero-gradient", "round()"


NET = nn.Linear(D, Q)  # the line that the finding names


def test_a_module_outside_of_a_function_is_a_warning_and_left_alone():
    def guide(x, *, n=None):
        pyro.module("net", NET)
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(NET(x), 1.0).to_event(1))

    before = {name: (p, p.detach().clone()) for name, p in NET.named_parameters()}
    report = check(Pair(model=Model, guide=guide), reals())
    assert [f.code for f in report.findings] == ["shared-module"]
    line = next(
        i for i, text in enumerate(Path(__file__).read_text().splitlines(), 1) if text.startswith("NET = ")
    )
    assert report.findings[0].line == line
    assert report.findings[0].site == "NET"
    assert "class" in report.findings[0].fix
    for name, parameter in NET.named_parameters():
        assert parameter is before[name][0]
        assert torch.equal(parameter, before[name][1])


WARNED = [f for name, f in sorted(globals().items()) if name.startswith("warned_")]


@pytest.mark.parametrize("example", WARNED, ids=lambda f: f.__name__.removeprefix("warned_"))
def test_what_is_doubtful_is_a_warning(example):
    pair, data, code, fix = example()
    report = check(pair, data)
    assert report.ok, str(report)
    assert {f.code for f in report.findings} == {code}, str(report)
    assert report.findings[0].line == marked(example), str(report)
    assert fix in report.findings[0].fix


def test_double_data_under_a_float_model_is_a_warning():
    class Casts(Guide):
        def forward(self, x, *, n=None):
            super().forward(x.float())

    pair = Pair(model=Model, guide=Casts)
    report = check(pair, {"x": reals()["x"].double()}, built=build(pair))
    assert [f.code for f in report.findings] == ["dtype"]


# --- the border -----------------------------------------------------------------------------------


def test_an_unknown_name_is_a_finding():
    report = check("ppca_ful")
    assert report.findings[0].code == "pair"
    assert "did you mean" in str(report.findings[0])


def test_a_file_that_cannot_be_imported_is_a_finding(tmp_path):
    file = tmp_path / "broken.py"
    file.write_text("import ppvae\n\n1 / 0\n")
    finding = check(f"{file}:PAIR").findings[0]
    assert (finding.code, finding.file, finding.line) == ("import", str(file), 3)
    file.write_text("x = (\n")
    finding = check(f"{file}:PAIR").findings[0]
    assert (finding.code, finding.file, finding.line) == ("import", str(file), 1)


@pytest.mark.parametrize(
    "data",
    [
        {"x": torch.zeros(0, D)},
        {"x": torch.zeros(4, D), "y": torch.zeros(3)},
        3,
        "no_such_data",
    ],
)
def test_unusable_data_are_a_finding(data):
    report = check(Pair(model=Model, guide=Guide), data)
    assert [f.code for f in report.findings] == ["data"]


def test_few_data_are_enough():
    for rows in (1, 2, 3):
        assert check(Pair(model=Model, guide=Guide), reals(rows)).ok


def test_a_batch_alone_is_enough():
    assert check(Pair(model=Model, guide=Guide), batch=reals(6)).ok


def test_ppvae_check_is_the_linter():
    assert ppvae.check is check


# --- the report -----------------------------------------------------------------------------------


def test_the_table_shows_each_site():
    report = check(Pair(model=Model, guide=Guide), reals())
    z, x = report.table
    assert (z.name, z.kind, z.plates, z.event_shape, z.how) == (
        "z",
        "local",
        ("data",),
        (Q,),
        "reparameterized",
    )
    assert (z.model, z.guide, z.support) == ("Normal", "Normal", "real")
    assert (x.name, x.kind, x.guide, x.batch_shape) == ("x", "observed", "", z.batch_shape)


def test_rendering_shows_table_findings_and_fix():
    from rich.console import Console

    pair, data, *_ = broken_grey()
    console = Console(file=io.StringIO(), width=200)
    check(pair, data).render(console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "event_shape" in text
    assert "Bernoulli" in text
    assert "test_linter.py" in text
    assert "--binarization dynamic" in text


def test_what_is_no_pair_at_all_is_a_finding():
    assert check(Pair(model=None, guide=Guide), reals()).findings[0].code == "instance"
    assert check(Pair(model=Model, guide=Guide, discrete=["z"]), reals()).findings[0].code == "names"
    assert check(Pair(model=Model, guide=Guide, observed=(1,)), reals()).findings[0].code == "names"


def test_a_finding_is_one_line():
    finding = Finding("error", "support", "wrong", "/somewhere/a.py", 3, "right", "z")
    assert str(finding) == "/somewhere/a.py:3: error: wrong; fix: right"
    report = Report("mine", [finding])
    with pytest.raises(PairError, match=r"a\.py:3"):
        report.raise_if_broken()


def test_an_exception_of_many_lines_is_one_line():
    report = check(*broken_exception_of_many_lines()[:2])
    assert [f.message for f in report.findings] == [
        "the guide raises ValueError: Error while computing log_prob: of site"
    ]


def test_a_batch_alone_does_not_tell_how_many_data_there_are():
    pair, data, *_ = broken_two_sizes()
    report = check(pair, batch={"x": data["x"][:20]})
    assert report.ok
    assert {f.code for f in report.findings} == {"subsample"}


# --- purity ---------------------------------------------------------------------------------------


class Impure(Guide):
    """Draws from every generator, counts, normalizes its weights, and replaces a buffer."""

    def __init__(self, model):
        super().__init__(model)
        self.norm = nn.BatchNorm1d(Q)
        self.register_buffer("steps", torch.zeros(()))
        self.calls = 0

    def forward(self, x, *, n=None):
        random.random()
        np.random.rand()
        self.calls += 1
        self.steps = self.steps + 1
        with torch.no_grad():
            self.encoder.weight.mul_(0.9)
        pyro.param("bare", torch.zeros(()))
        loc = self.norm(self.encoder(x))
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(loc, self.scale).to_event(1))


def test_the_check_changes_nothing():
    pair = Pair(model=Model, guide=Impure)
    built = build(pair, None, seed=3)
    built.guide.norm.eval()
    built.model.decoder.weight.grad = torch.ones(D, Q)
    state = {name: value.clone() for name, value in built.state_dict().items()}
    flags = [module.training for module in built.modules()]
    ids = {name: id(p) for name, p in built.named_parameters()}
    data = reals()
    kept = data["x"].clone()
    torch.manual_seed(11)
    random.seed(11)
    np.random.seed(11)
    expected = (torch.rand(3), random.random(), np.random.rand())
    torch.manual_seed(11)
    random.seed(11)
    np.random.seed(11)
    report = check(pair, data, built=built, seed=5)
    assert torch.equal(torch.rand(3), expected[0])
    assert (random.random(), np.random.rand()) == expected[1:]
    assert built.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[name]) for name, value in built.state_dict().items())
    assert flags == [module.training for module in built.modules()]
    assert ids == {name: id(p) for name, p in built.named_parameters()}
    assert built.guide.calls == 0
    assert torch.equal(built.model.decoder.weight.grad, torch.ones(D, Q))
    assert all(p.grad is None for name, p in built.named_parameters() if name != "model.decoder.weight")
    assert torch.equal(data["x"], kept)
    assert not data["x"].requires_grad
    assert len(pyro.get_param_store()) == 0
    assert report.of("error"), "bare never gets a gradient"


def test_a_net_outside_is_adopted_again_after_the_check():
    def guide(x, *, n=None):
        pyro.module("net", NET)
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(NET(x), 1.0).to_event(1))

    pair, data = Pair(model=Model, guide=guide), reals()
    built = build(pair)
    check(pair, data, built=built)
    assert not built.params
    built.score(data)
    assert len(built.params) == 2


def test_the_check_is_the_same_twice():
    pair, data, *_ = broken_leakage()
    assert str(check(pair, data)) == str(check(pair, data))


def test_a_loaded_file_is_named(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "import pyro\nimport pyro.distributions as dist\nimport torch\nfrom ppvae.pair import Pair\n\n\n"
        "def model(x=None, *, n=None):\n"
        "    with pyro.plate('data', n if x is None else len(x), dim=-1):\n"
        "        z = pyro.sample('z', dist.Normal(0.0, 1.0))\n"
        "        return pyro.sample('x', dist.Normal(z, 1.0), obs=x)\n\n\n"
        "def guide(x, *, n=None):\n"
        "    with pyro.plate('data', len(x), dim=-1):\n"
        "        pyro.sample('zed', dist.Normal(x, 1.0))\n\n\n"
        "PAIR = Pair(model=model, guide=guide)\n"
    )
    finding = check(f"{file}:PAIR", {"x": torch.randn(20)}).findings[0]
    assert (finding.file, finding.line, finding.code) == (str(file), 15, "missing-in-model")
    assert any("mine" in str(getattr(m, "__file__", "")) for m in list(sys.modules.values()))
