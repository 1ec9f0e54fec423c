"""What is advised follows from the numbers alone: each line where its number is, none where it is not."""

import dataclasses
import re

import pytest
import torch

from ppvae.config import TrainConfig
from ppvae.data import Dataset, Split
from ppvae.speed.advice import advice
from ppvae.speed.counting import Counts, Latent, Wait
from ppvae.speed.report import NOT_ASKED, Floor, Setting, Speed, Times
from ppvae.speed.subject import Subject, subject
from tests.toys import MLP_VAE, bits, dataset

PARTS = {"data": 0.02, "guide": 1.0, "model": 1.0, "objective": 1.0, "backward": 1.0, "optimizer": 1.0}


def speed(**changes) -> Speed:
    """A step about which there is nothing to say: 5 s eager and compiled, over a floor of 4 s."""
    found = Speed(
        setting=Setting("toy", "elbo", 1, 8, "toy", "adam", "cpu", 4, "float32", "float32"),
        counts=Counts((), 0, None, 100, 10, 1000, 1000, 100, (Latent("z", "Normal", 10),), ()),
        compiled=None,
        times=Times(dict(PARTS), 5.0, 5.0, 10.0, None),
        floor=Floor(1.5, 2.5, 1.4, "bfloat16"),
        no_graph=None,
    )
    for part in ("setting", "counts", "times", "floor"):
        own = {
            k: v
            for k, v in changes.items()
            if k in {f.name for f in dataclasses.fields(getattr(found, part))}
        }
        found = dataclasses.replace(found, **{part: dataclasses.replace(getattr(found, part), **own)})
    return dataclasses.replace(found, no_graph=changes.get("no_graph"))


@pytest.fixture(scope="module")
def made() -> Subject:
    return subject(MLP_VAE, dataset(bits(20)), TrainConfig(check=False, batch=8))


def test_where_no_number_stands_out_nothing_is_advised(made):
    assert advice(speed(), made) == ()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"graph": 4.0}, r"--engine graph: .* 4,000.0 ms for 5,000.0 \(0.80\), which pays from step 10 on"),
        ({"one_thread": 2.5}, r"--threads 1: .* 2,500.0 ms for 5,000.0 on 4 threads"),
        (
            {"graph": None, "no_graph": NOT_ASKED, "eager": 8.0},
            r"4,000.0 of 8,000.0 ms are overhead: --engine graph",
        ),
        (
            {"products": 4.0, "update": 0.1, "lower": 1.0},
            r"80 % of the step: --precision bf16, in which they take 1,000.0 ms",
        ),
        ({"products": 4.0, "update": 0.1, "lower": 3.9}, r"80 % of the step: only smaller nets"),
        ({"products": 4.0, "update": 0.1, "lower": None}, r"80 % of the step: only smaller nets"),
        ({"parts": {**PARTS, "data": 2.0}}, r"29 % of the eager step, 2,000.0 ms, go by while the rows"),
        (
            {"eager": 8.0, "graph": 7.9, "latents": (Latent("z", "Beta", 30),)},
            r"latent 'z', a Beta, makes 30 of 100 kernels.*: a graph fuses them",
        ),
        (
            {"eager": 8.0, "graph": 7.9, "latents": (Latent("a", "Beta", 15), Latent("b", "Beta", 15))},
            r"2 latents such as 'a', each a Beta, make 30 of 100",
        ),
    ],
)
def test_a_number_that_stands_out_has_its_line(changes, said, made):
    found = advice(speed(**changes), made)
    assert len(found) == 1
    assert re.search(said, found[0]), found


def test_the_most_valuable_comes_first(made):
    """Graph: 3 s a step; lower precision: 1.5 s; the data: 1 s."""
    parts = {**PARTS, "data": 1.0}
    found = advice(speed(graph=2.0, eager=5.0, products=2.5, lower=1.0, parts=parts), made)
    assert [re.search(r"--engine graph|bf16|rows", line)[0] for line in found] == [  # type: ignore[index]
        "--engine graph",
        "bf16",
        "rows",
    ]


def test_of_threads_in_each_others_way_no_other_number_is_trusted(made):
    found = advice(speed(one_thread=1.0, graph=2.0, parts={**PARTS, "data": 5.0}), made)
    assert len(found) == 1
    assert "--threads 1" in found[0]


def test_without_a_graph_the_reason_is_given(made):
    found = advice(speed(graph=None, breaks=1, reason="dropout", no_graph="dropout"), made)
    assert found == ("there is no compiled graph: dropout",)
    found = advice(speed(graph=None, no_graph="install g++", eager=8.0), made)
    assert found[0] == "there is no compiled graph: install g++"
    assert "larger --batch" in found[1]
    assert advice(speed(graph=None, no_graph=NOT_ASKED), made) == ()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("_local_scalar_dense", "a number is read off a tensor (.item(), float(), bool(), if)"),
        ("index", "a boolean index"),
        ("_unique2", "unique"),
        ("equal", "torch.equal"),
        ("_to_copy", "leave it on the device"),
        ("_linalg_check_errors", "cholesky_ex"),
    ],
)
def test_what_waits_is_named_with_its_place_and_its_remedy(name, said, made):
    waits = (Wait(name, "own.py:7", 2), Wait("index_put", "the backward pass", 1))
    found = advice(speed(waits=waits, breaks=1, reason="it", no_graph="it", graph=None), made)
    assert len(found) == 1
    assert found[0].startswith("own.py:7: ")
    assert said in found[0]
    assert found[0].endswith(" (2 times a step)")


def test_waits_of_one_line_are_told_once(made):
    waits = tuple(Wait(name, "own.py:7", 1) for name in ("index", "index_put_", "nonzero"))
    assert len(advice(speed(waits=waits, breaks=1, reason="it", no_graph="it", graph=None), made)) == 1


def test_a_wait_comes_before_all_else_but_for_one_that_costs_nothing_on_a_cpu(made):
    def first(name, device):
        waits = (Wait(name, "own.py:7", 1),)
        return advice(speed(waits=waits, graph=1.0, device=device), made)[0].startswith("own.py:7")

    assert first("index", "cpu")
    assert not first("_linalg_check_errors", "cpu")
    assert first("_linalg_check_errors", "cuda:0")


def test_an_optimizer_that_waits_is_to_be_another(made):
    waits = (Wait("_local_scalar_dense", "ppvae/engine/updates.py:83", 2),)
    found = advice(speed(waits=waits, optimizer="rmsprop"), made)
    assert "--optimizer adam" in found[0]
    assert "rmsprop" in found[0]


def test_pyros_own_losses_wait_by_themselves(made):
    config = dataclasses.replace(made.config, estimator="pyro:Trace_ELBO")
    waits = (Wait("_local_scalar_dense", "ppvae/estimators/pyro_bridge.py:1", 3),)
    found = advice(speed(waits=waits), dataclasses.replace(made, config=config))
    assert len(found) == 1
    assert "3 times a step" in found[0]
    assert "use elbo" in found[0]


@pytest.mark.parametrize(("declared", "said"), [(None, "GroupNorm"), (False, r"Pair\(vectorize=False\)")])
def test_particles_one_after_another_are_told_with_the_reason(declared, said, made, monkeypatch):
    pair = dataclasses.replace(made.pair, vectorize=declared)
    monkeypatch.setattr(type(made.built), "vectorize", False)
    found = advice(speed(particles=5), dataclasses.replace(made, pair=pair))
    assert len(found) == 1
    assert found[0].startswith("the 5 particles run one after another, 3,000.0 ms")
    assert re.search(said, found[0])
    assert advice(speed(particles=1), dataclasses.replace(made, pair=pair)) == ()


def test_bits_that_are_drawn_anew_have_a_remedy_of_their_own(made):
    grey = Dataset(name="grey", train=Split({"x": torch.rand(9, 6)}, dynamic=True), binarization="dynamic")
    found = advice(speed(parts={**PARTS, "data": 2.0}), dataclasses.replace(made, dataset=grey))
    assert "--binarization static" in found[0]


def test_double_precision_is_told_as_such(made):
    found = advice(speed(products=4.0, update=0.1, lower=2.0, precision="float32"), made)
    assert "give the data as float32" in found[0]
