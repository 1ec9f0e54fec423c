"""Estimators that each break one law, as a user might write them: `ppvae check` must name the law."""

from __future__ import annotations

import math
import random

import torch

from ppvae.estimators import ELBO, IWAE, Claims, Estimator, Needs, Objective
from ppvae.estimators.functionals import log_mean_exp, mean
from ppvae.estimators.paths import along_paths


def raised(error: BaseException):
    raise error


class Weighs(Estimator):
    """The importance-weighted bound, written out and right: what the others change."""

    needs = Needs(reparameterized=True, weights=True)
    claims = Claims(bound="lower")
    fails: tuple[str, ...] = ()
    may: tuple[str, ...] = ()
    """What else a failure may show in, as the seed has it."""

    def __init__(self, particles: int = 3):
        super().__init__(particles)

    def targets(self):
        return dict.fromkeys(("bound", "model", "guide"), log_mean_exp)

    def bound(self, log_weight):
        return log_weight.logsumexp(0) - math.log(len(log_weight))

    def objective(self, terms, knobs):
        bound = self.bound(terms.log_weight)
        return Objective(bound.detach(), {"all": -bound.mean()})


class Plain(Estimator):
    """The ELBO with the score function, written out and right."""

    claims = Claims(bound="lower")
    fails: tuple[str, ...] = ()
    may: tuple[str, ...] = ()

    def targets(self):
        return dict.fromkeys(("bound", "model", "guide"), mean)

    def surrogate(self, terms, log_weight):
        log_q = sum(s.log_q for s in terms.sites.values() if s.how == "score" and s.log_q is not None)
        return log_weight + log_weight.detach() * (log_q - log_q.detach() if torch.is_tensor(log_q) else 0)

    def objective(self, terms, knobs):
        log_weight = terms.log_weight
        return Objective(log_weight.mean(0).detach(), {"all": -self.surrogate(terms, log_weight).mean()})


# Each with the properties that must fail, and no others on the reference problems.


class WrongSign(Weighs):
    fails = ("model gradient", "guide gradient")

    def objective(self, terms, knobs):
        bound = self.bound(terms.log_weight)
        return Objective(bound.detach(), {"all": bound.mean()})


class NoLogK(Weighs):
    fails = ("value", "bound")

    def bound(self, log_weight):
        return log_weight.logsumexp(0)


class Joint(Weighs):
    """One weight for the whole batch."""

    may = ("number of data",)
    fails = ("value", "bound", "model gradient", "guide gradient", "per datum")

    def bound(self, log_weight):
        rows = log_weight.shape[1]
        joint = (log_weight.sum(1).logsumexp(0) - math.log(len(log_weight))) / rows
        return joint.expand(rows)


class SelfNormalized(Weighs):
    """sum_k softmax(log w)_k log w_k reported as the value: it overstates."""

    fails = ("value", "bound")

    def objective(self, terms, knobs):
        log_weight = terms.log_weight
        value = (log_weight.softmax(0) * log_weight).sum(0)
        return Objective(value.detach(), {"all": -self.bound(log_weight).mean()})


class WrongSide(Weighs):
    fails = ("bound",)
    claims = Claims(bound="upper")


class SoftmaxSTL(Weighs):
    """Path derivatives with weights that are not squared, claimed unbiased."""

    fails = ("guide gradient",)
    needs = Needs(reparameterized=True, weights=True, leaves=True)

    def objective(self, terms, knobs):
        log_weight = terms.log_weight
        weight = log_weight.softmax(0).detach()
        along = along_paths(terms, (weight * log_weight).sum(0).mean())
        model = (weight * (terms.log_likelihood + sum(s.log_p for s in terms.of("local")))).sum(0).mean()
        return Objective(self.bound(log_weight).detach(), {"all": -model - along})


class Attached(SoftmaxSTL):
    """The squared weights of DReG without their detach."""

    fails = ("model gradient", "guide gradient")

    def objective(self, terms, knobs):
        log_weight = terms.log_weight
        weight = log_weight.softmax(0)
        along = along_paths(terms, (weight**2 * log_weight).sum(0).mean())
        model = (weight * (terms.log_likelihood + sum(s.log_p for s in terms.of("local")))).sum(0).mean()
        return Objective(self.bound(log_weight).detach(), {"all": -model - along})


class ScaleInside(Weighs):
    """Takes a scale that the model wrote, inside its logsumexp."""

    fails = ("scale",)
    needs = Needs(reparameterized=True)


class CountsInside(Weighs):
    """N / B inside the logsumexp."""

    fails = ("number of data",)

    def objective(self, terms, knobs):
        scale = terms.num_data / terms.rows
        bound = self.bound(terms.log_weight * scale) / scale
        return Objective(bound.detach(), {"all": -bound.mean()})


class Summed(Weighs):
    """The sum over the batch, not its mean."""

    fails = ("model gradient", "guide gradient", "number of data")

    def objective(self, terms, knobs):
        bound = self.bound(terms.log_weight)
        return Objective(bound.detach(), {"all": -bound.sum()})


class NoScoreFunction(Plain):
    """Discrete latents that the guide's parameters reach by log q alone."""

    fails = ("guide gradient",)

    def surrogate(self, terms, log_weight):
        return log_weight


class AttachedSignal(Plain):
    """A learning signal that is differentiated, too."""

    fails = ("model gradient", "guide gradient")

    def surrogate(self, terms, log_weight):
        log_q = sum(s.log_q for s in terms.sites.values() if s.how == "score" and s.log_q is not None)
        return log_weight + log_weight * log_q


class NoEntropy(Plain):
    """-log q is left out of the loss."""

    fails = ("guide gradient",)

    def surrogate(self, terms, log_weight):
        log_p = terms.log_likelihood + sum(s.log_p for s in terms.of("local"))
        return super().surrogate(terms, log_p)


class Standardized(Plain):
    """A learning signal divided by its deviation over the batch."""

    fails = ("guide gradient", "per datum")

    def surrogate(self, terms, log_weight):
        signal = log_weight.detach()
        signal = (signal - signal.mean()) / (signal.std() + 1e-6)
        log_q = sum(s.log_q for s in terms.sites.values() if s.how == "score" and s.log_q is not None)
        return log_weight + signal * (log_q - log_q.detach() if torch.is_tensor(log_q) else 0)


class Forgets(Plain):
    """A moving average as a plain attribute: it is not saved."""

    fails = ("state",)

    def __init__(self):
        super().__init__()
        self.average = 0.0

    def surrogate(self, terms, log_weight):
        right = super().surrogate(terms, log_weight)
        log_q = sum(s.log_q for s in terms.sites.values() if s.how == "score" and s.log_q is not None)
        if torch.is_tensor(log_q):
            right = right - self.average * (log_q - log_q.detach())
        self.average = 0.9 * self.average + 0.1 * float(log_weight.detach().mean())
        return right


class OtherDice(Plain):
    """Random numbers that the seed of torch does not know."""

    fails = ("seed",)

    def surrogate(self, terms, log_weight):
        return super().surrogate(terms, log_weight) * (0.5 + random.random())


class Backward(Plain):
    """Fills .grad by itself."""

    fails = (".grad",)

    def objective(self, terms, knobs):
        made = super().objective(terms, knobs)
        made.losses["all"].backward(retain_graph=True)
        return made


class Scalar(Plain):
    fails = ("form",)

    def objective(self, terms, knobs):
        made = super().objective(terms, knobs)
        return Objective(made.losses["all"].detach(), made.losses)


class Raises(Plain):
    fails = ("runs",)

    def objective(self, terms, knobs):
        raise RuntimeError("out of luck")


class SilentBound(Weighs):
    """Names a functional of its bound and reports no bound."""

    fails = ("value",)

    def objective(self, terms, knobs):
        return Objective(None, {"all": -self.bound(terms.log_weight).mean()})


BROKEN = [
    WrongSign, NoLogK, Joint, SelfNormalized, WrongSide, SoftmaxSTL, Attached, ScaleInside, CountsInside,
    Summed, NoScoreFunction, AttachedSignal, NoEntropy, Standardized, Forgets, OtherDice, Backward, Scalar,
    Raises, SilentBound,
]  # fmt: skip


class ClaimedBias(SoftmaxSTL):
    """Biased as `SoftmaxSTL` is, and says so."""

    fails = ()

    claims = Claims(bound="lower", biased=("guide",))


class Silent(IWAE):
    """Claims nothing."""

    claims = Claims()

    def targets(self):
        return {}


class LeaveOneOut(ELBO):
    """A baseline from the other data of the batch: the data share something, and nothing is biased."""

    def objective(self, terms, knobs):
        log_weight = terms.log_weight
        rows = log_weight.shape[1]
        value = log_weight.detach()
        signal = value - (value.sum(1, keepdim=True) - value) / (rows - 1)
        loss = -log_weight.mean()
        for site in terms.sites.values():
            if site.how == "score" and site.log_q is not None:
                loss = loss - (signal * (site.log_q - site.log_q.detach())).mean()
        return Objective(log_weight.mean(0).detach(), {"all": loss})
