"""What is counted in a step: against hand counts, and in every pair of the library nothing that waits."""

import math
from inspect import signature

import pytest
import torch
from torch import nn

from ppvae import registry
from ppvae.engine.compiling import compiled
from ppvae.engine.flat import flat
from ppvae.engine.updates import make_optimizer
from ppvae.estimators import ESTIMATORS
from ppvae.pair import Pair
from ppvae.speed import Wait, counts_of
from ppvae.speed.counting import CALLED, WRITTEN, source_of
from ppvae.speed.recording import record
from tests.toys import MLP, MLP_VAE, bits, dataset

OWN = """
import pyro
import pyro.distributions as dist
import torch
from torch import nn

from ppvae import Pair


class Model(nn.Module):
    def forward(self, x=None, *, n=None):
        with pyro.plate("data", n if x is None else len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(10), 1.0).to_event(1))
            return pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)


class Guide(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.net = nn.Linear(10, 10)

    def forward(self, x, *, n=None):
        loc = self.net(x)
        # HERE
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(loc, 1.0).to_event(1))


PAIR = Pair(model=Model, guide=Guide, data="ppca_toy")
"""
LINE = OWN[: OWN.index("# HERE")].count("\n") + 1


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A pair of one's own whose guide has the given line, as `own.py:PAIR` in the current folder."""
    monkeypatch.chdir(tmp_path)

    def write(line: str) -> str:
        (tmp_path / "own.py").write_text(OWN.replace("# HERE", line))
        return "own.py:PAIR"

    return write


# ---- the laws: no step of the library waits, and each is one graph


@pytest.mark.parametrize("name", registry.names())
def test_no_step_of_the_library_waits_for_the_device_and_each_is_one_graph(name):
    counts = counts_of(name, check=False)
    assert counts.waits == ()
    assert (counts.breaks, counts.reason) == (0, None)
    assert counts.kernels > counts.products > 0
    assert counts.parameters > 0


DISCRETE = (
    "reinforce",
    "gumbel",
    "straight_through",
    "nvil",
    "enumeration",
    "arm",
    "disarm",
    "rebar",
    "relax",
)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_nor_does_the_step_of_any_estimator(name):
    """Of several particles, where it takes any number of them."""
    pair, data = ("noisy_or", None) if name in DISCRETE else (MLP_VAE, dataset(bits(40)))
    several = "particles" in signature(ESTIMATORS[name]).parameters and name not in ("wake_sleep", *DISCRETE)
    spelled = f"{name}:particles=3" if several else name
    counts = counts_of(pair, data, estimator=spelled, batch=8, check=False)
    assert counts.waits == ()
    assert (counts.breaks, counts.reason) == (0, None)


def test_a_number_read_off_a_tensor_is_found_with_its_line(own):
    counts = counts_of(own("loc = loc * 0 if loc.sum().item() > 1e9 else loc"), check=False)
    assert counts.waits == (Wait("_local_scalar_dense", f"own.py:{LINE}", 1),)
    assert counts.breaks == 1
    assert counts.reason is not None
    assert f"own.py:{LINE}" in counts.reason


def test_a_boolean_index_is_found_with_its_line(own):
    counts = counts_of(own("loc = loc + loc[loc > 0].sum()"), check=False)
    assert {(w.name, w.place) for w in counts.waits} == {
        ("index", f"own.py:{LINE}"),
        ("index_put", "the backward pass"),
    }
    assert counts.breaks == 1


def test_a_sound_line_in_the_same_place_is_not(own):
    counts = counts_of(own("loc = torch.where(loc > 0, loc, 0.5 * loc)"), check=False)
    assert (counts.waits, counts.breaks) == ((), 0)


def test_an_optimizer_that_asks_is_found_in_the_library_that_calls_it():
    waits = counts_of(MLP_VAE, bits(), optimizer="rmsprop", check=False).waits
    assert [wait.times for wait in waits] == [2]  # model and guide
    assert "ppvae/engine/updates.py:" in waits[0].place


X = torch.tensor([[2.0, 1.0], [1.0, 3.0]])


@pytest.mark.parametrize(
    ("function", "waiting"),
    [
        (lambda: X.sum().item(), ["_local_scalar_dense"]),
        (lambda: bool(X.sum() > 0), ["_local_scalar_dense"]),
        (lambda: X[X > 1], ["index"]),
        (lambda: X.nonzero(), ["nonzero"]),
        (lambda: X.masked_select(X > 1), ["masked_select"]),
        (lambda: X.unique(), ["_unique2"]),
        (lambda: torch.equal(X, X), ["equal"]),
        (lambda: torch.linalg.cholesky(X), ["_linalg_check_errors"]),
        (lambda: X.clone().index_put_((X > 1,), torch.ones(2)), ["index_put_"]),
        (lambda: X.clone().index_put_((X > 1,), torch.ones(())), []),
        (lambda: X[torch.tensor([1, 0])], []),
        (lambda: torch.where(X > 1, X, 0.0), []),
        (lambda: torch.linalg.cholesky_ex(X), []),
        (lambda: X.masked_fill(X > 1, 0.0), []),
    ],
)
def test_what_waits_and_what_does_not(function, waiting):
    assert [name for name, _ in record(function).waits] == waiting


# ---- hand counts


def test_bytes_and_kernels_of_a_tiny_graph():
    """(3, 4) @ (4, 5), relu, sum, in float32: reads 12 + 20, 15 and 15 numbers, writes 15, 15 and 1."""
    x, w = torch.randn(3, 4), torch.randn(4, 5)
    seen = record(lambda: (x @ w).relu().sum())
    assert [o.name for o in seen.kernels] == ["mm", "relu", "sum"]
    assert seen.bytes == 4 * (12 + 20 + 15 + 15 + 15 + 15 + 1)
    assert seen.flops == 2 * 3 * 4 * 5


def test_views_and_allocations_move_nothing():
    x = torch.randn(3, 4)
    seen = record(lambda: (x.view(4, 3).T[1:].unsqueeze(0).expand(5, 2, 4).detach(), torch.empty(100)))
    assert seen.kernels == []
    assert seen.bytes == 0


@pytest.mark.parametrize(
    ("function", "numbers"),
    [
        (lambda x: x.index_select(0, torch.zeros(2, dtype=torch.int64)), 2 * 2 + 2 * 10 * 2),
        (lambda x: x[:1].expand(50, 10) + 1.0, 10 + 500),  # what is expanded is in memory once
        (lambda x: x.add_(1.0), 2 * 1000),
        (lambda x: x.zero_(), 1000),
        (lambda x: x.copy_(x.new_ones(())), 1000 + 1 + 1),  # a one is written, then read a thousand times
    ],
)
def test_memory_is_counted_as_it_moves(function, numbers):
    """In numbers of 4 bytes; an index is two of them, and its own zeros are written first."""
    wanted = numbers + (4 if numbers == 44 else 0)
    assert record(function, torch.randn(100, 10)).bytes == 4 * wanted


@pytest.mark.parametrize(("name", "passes"), [("adam", 7), ("sgd", 5)])
def test_a_fused_optimizer_reads_and_writes_each_moment_once(name, passes):
    """Adam reads p, g, m, v and writes p, m, v; momentum SGD reads p, g, m and writes p, m."""
    p = nn.Parameter(torch.randn(1000))
    optimizer = make_optimizer(name, [p], lr=0.1, weight_decay=0.0)
    for _ in range(2):
        p.grad = torch.randn(1000)
        seen = record(optimizer.step)
    kernels = [o for o in seen.kernels if o.name.startswith("_fused")]
    assert len(kernels) == 1
    assert kernels[0].bytes - 4 * 1000 * passes in (0, 4)  # Adam reads its step count, too


def test_the_flops_of_an_mlp():
    """B rows through 6-5-4 and 2-5-6: 2 B a b forward, as much for each weight's gradient, and for each
    input's but that of the data, which have none."""
    rows = 7
    counts = counts_of(MLP_VAE, dataset(bits(rows)), check=False, batch=rows)
    forward = 6 * 5 + 5 * 4 + 2 * 5 + 5 * 6
    assert counts.flops == 2 * rows * (forward + forward + forward - 6 * 5)
    assert counts.products == 4 + 4 + 3
    assert counts.parameters == forward + 5 + 4 + 5 + 6


def test_the_kernels_of_a_latent_are_those_of_each_particle_run_by_itself():
    class Mixing(MLP):
        def __init__(self):
            super().__init__()
            self.decoder.insert(1, nn.BatchNorm1d(5))

    options = {"estimator": "iwae:particles=3", "check": False}
    mixed = counts_of(Pair(model=Mixing, guide=MLP_VAE.guide, data=None), bits(), **options)
    at_once = counts_of(MLP_VAE, bits(), **options)
    assert [(latent.name, latent.law) for latent in mixed.latents] == [("z", "Normal")]
    assert mixed.latents[0].kernels == 3 * at_once.latents[0].kernels


def test_a_pair_without_data_takes_steps_too():
    class Guide(nn.Module):
        def __init__(self, model):
            super().__init__()
            self.loc = nn.Parameter(torch.zeros(()))

        def forward(self):
            pyro.sample("z", dist.Normal(self.loc, 1.0))

    def model():
        pyro.sample("z", dist.Normal(0.0, 1.0))

    import pyro
    import pyro.distributions as dist

    counts = counts_of(Pair(model=model, guide=Guide, data=None, observed=()), check=False)
    assert (counts.waits, counts.breaks, counts.products, counts.parameters) == ((), 0, 0, 1)


# ---- what the compiler wrote


def test_kernels_are_counted_in_the_compilers_text():
    text = """
cpp_fused_relu_0 = async_compile.cpp_pybinding(['float*'], '''
extern "C"  void  kernel(float* in_out_ptr0)''')
    def call(self, args):
        # Topologically Sorted Source Nodes: [extern_kernels.mm(]
        buf1 = torch.ops.aten.normal_functional.default(buf0)
        assert_alignment(buf1, 16, 'torch.ops.aten.normal_functional.default')
        cpp_fused_relu_0(arg0_1, buf0)
        triton_poi_fused_1.run(buf0, 100, stream=stream0)
        extern_kernels.mm(buf0, arg1_1, out=buf2)
        return (buf2, )
"""
    assert (len(WRITTEN.findall(text)), len(CALLED.findall(text))) == (2, 2)


def test_the_compilers_text_is_where_it_is_looked_for():
    x, w = torch.randn(4, 3), torch.randn(3, 2)
    call = compiled(flat(lambda x, w: [(x @ w).relu().exp()], [x, w]).graph, [x, w])
    text = source_of(call)
    assert text is not None
    assert (len(WRITTEN.findall(text)), len(CALLED.findall(text))) == (1, 1)
    assert math.isclose(float(call(x, w)[0].sum()), float((x @ w).relu().exp().sum()), rel_tol=1e-5)
