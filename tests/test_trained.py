"""A trained pair: its verbs, and that a run folder gives it back bit for bit."""

from typing import Any

import numpy as np
import pytest
import torch

import ppvae
from ppvae import registry
from ppvae.data import Dataset, Split
from ppvae.errors import PairError, RunError, UsageError
from ppvae.trained import device_of
from ppvae.training import fit
from tests.test_training import assert_equal, proof, state, three_way

QUICK: dict[str, Any] = {"check": False, "progress": False}


@pytest.fixture(scope="module")
def pictures():
    x = torch.randint(0, 2, (60, 1, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return Dataset(name="pictures", train=Split({"x": x[:40]}, {"x": 1}), test=Split({"x": x[40:]}, {"x": 1}))


@pytest.fixture(scope="module")
def vae(pictures):
    return fit("vae", pictures, steps=5, batch=20, sizes={"latent": 3, "hidden": [8]}, **QUICK)


def first(data, n):
    return data.test.batch(torch.arange(n))["x"]


# ---- the verbs


def test_shapes(vae, pictures):
    x = first(pictures, 7)
    assert vae.generate().shape == (16, 1, 4, 4)
    assert vae.generate(n=5).shape == (5, 1, 4, 4)
    assert vae.reconstruct(x).shape == (7, 1, 4, 4)
    codes = vae.encode(x)
    assert codes.keys() == {"z"}
    assert codes["z"].shape == (7, 3)


def test_means_are_probabilities_and_draws_are_bits(vae, pictures):
    x = first(pictures, 7)
    for mean, draw in [
        (vae.generate(6), vae.generate(6, mean=False)),
        (vae.reconstruct(x), vae.reconstruct(x, mean=False)),
    ]:
        assert ((mean > 0) & (mean < 1)).all()
        assert set(draw.unique().tolist()) <= {0.0, 1.0}


def test_draws_follow_the_callers_seed_and_encode_needs_none(vae, pictures):
    x = first(pictures, 7)

    def drawn(seed):
        torch.manual_seed(seed)
        return vae.generate(4), vae.reconstruct(x), vae.encode(x)["z"]

    one, two, other = drawn(0), drawn(0), drawn(1)
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    assert [torch.equal(a, b) for a, b in zip(one, other, strict=True)] == [False, False, True]


def test_encode_is_the_guides_mean(pictures, vae):
    x = first(pictures, 7)
    with torch.no_grad():
        loc, _ = vae.built.guide.encoder(x)
    assert torch.equal(vae.encode(x)["z"], loc)


def test_reconstruction_passes_through_the_code():
    """With ppca's guide as sharp as its noise allows, reconstructions lie near the data, samples do not."""
    trained = fit("ppca", "ppca_toy", epochs=25, lr=0.02, **QUICK)
    assert trained.dataset is not None
    assert trained.dataset.test is not None
    x = first(trained.dataset, 100)
    near = (trained.reconstruct(x) - x).square().mean()
    far = (trained.generate(100) - x).square().mean()
    assert near < 0.5 < 2.0 < far


def test_the_verbs_leave_flags_and_gradients_alone(vae, pictures):
    vae.built.train()
    vae.built.guide.encoder.eval()
    flags = [module.training for module in vae.built.modules()]
    assert not vae.generate(2).requires_grad
    assert not vae.encode(first(pictures, 2))["z"].requires_grad
    assert not vae.reconstruct(first(pictures, 2)).requires_grad
    assert [module.training for module in vae.built.modules()] == flags
    vae.built.eval()


def test_a_conditional_pair_generates_given_its_condition():
    pair, data = proof("conditional_two_layer:PAIR")
    assert data is not None
    trained = fit(pair, data, steps=2, **QUICK)
    batch = data.train.batch(torch.arange(6))
    assert trained.generate(6, y=batch["y"]).shape == (6, 4)
    assert trained.reconstruct(**batch).shape == (6, 4)  # type: ignore[arg-type]
    assert {k: v.shape for k, v in trained.encode(**batch).items()} == {"z1": (6, 3), "z2": (6, 2)}


def test_a_categorical_has_no_mean_but_draws():
    """torch calls the mean of a Categorical NaN."""
    pair, data = proof("sequence:PAIR")
    assert data is not None
    trained = fit(pair, data, steps=2, **QUICK)
    drawn = trained.generate(6)
    assert set(drawn.unique().tolist()) <= {0, 1, 2, 3}


def test_a_model_of_nothing_observed_cannot_generate():
    pair, _ = proof("undirected:SUMMED")
    with pytest.raises(PairError, match="no observed field: read the draws off"):
        fit(pair, steps=1, **QUICK).generate(3)


def test_evaluate_has_the_splits(vae):
    assert vae.evaluate(k=2, n=5)["split"] == "test"
    assert vae.evaluate(k=2, n=5, split="train")["n_elbo"] == 40


def test_devices():
    assert device_of("cpu").type == "cpu"
    assert device_of("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    for name, message in [
        ("tpu", "use auto, cpu"),
        ("meta", "is not supported"),
        ("cuda:99", "use --device cpu"),
    ]:
        with pytest.raises(UsageError, match=message):
            device_of(name)


# ---- sizes


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"latent": "abc"}, "the size latent='abc' is no number: give one, such as latent=20"),
        ({"hidden": 200}, r"the size hidden=200 is no list: give one, such as hidden=\[400"),
        ({"latent": -3}, r"cannot be made with the sizes latent=-3 \(RuntimeError: .*: give others"),
        ({"latnt": 3}, "has no size 'latnt', did you mean 'latent'"),
        ({"likelihood": "gauss"}, "no likelihood 'gauss', did you mean 'gaussian'"),
    ],
)
def test_sizes_that_do_not_fit_are_named(sizes, message, pictures):
    with pytest.raises(UsageError, match=message) as caught:
        fit("vae", pictures, sizes=sizes, **QUICK)
    assert "\n" not in str(caught.value)


# ---- back from a run folder


OWN = """
from ppvae import Pair, registry
PAIR = registry.find("ppca_mean_field")
PAIR = Pair(model=PAIR.model, guide=PAIR.guide, data="ppca_toy")
"""


def test_load_gives_equal_parameters_and_numbers(tmp_path):
    options: dict[str, Any] = {
        "epochs": 2,
        "sizes": {"latent": 2},
        "log_every": 3,
        "save": True,
        "out": tmp_path,
        **QUICK,
    }
    trained = fit("ppca_mean_field", data="ppca_toy", **options)
    loaded = ppvae.load(tmp_path / "latest")
    assert_equal(state(loaded), state(trained))
    assert not any(module.training for module in loaded.built.modules())
    one, two = (t.evaluate(k=5, n=20) for t in (trained, loaded))
    assert {k: v for k, v in one.items() if k != "seconds"} == {
        k: v for k, v in two.items() if k != "seconds"
    }
    assert (loaded.step, loaded.history, loaded.pair.name) == (
        trained.step,
        trained.history,
        "ppca_mean_field",
    )
    assert loaded.config.sizes == {"latent": 2}
    assert loaded.run is not None
    assert trained.run is not None
    assert loaded.run.path == trained.run.path


def test_load_gives_buffers_and_tuples_of_sizes_back(tmp_path, pictures):
    sizes = {"latent": 2, "hidden": (8, 5)}
    trained = fit(
        "vae", pictures, steps=3, schedule="constant", sizes=sizes, save=True, out=tmp_path, **QUICK
    )
    assert_equal(state(ppvae.load(tmp_path / "latest", data=pictures)), state(trained))
    resumed = fit("vae", pictures, steps=4, sizes=sizes, resume=tmp_path / "latest")
    assert resumed.step == 4


def test_data_in_memory_must_be_given_again_and_be_the_same(tmp_path):
    fit("ppca", three_way(), steps=1, save=True, out=tmp_path, **QUICK)
    with pytest.raises(RunError, match=r"data passed from Python: load it there, with data=\.\.\."):
        ppvae.load(tmp_path / "latest")
    with pytest.raises(RunError, match="the data have changed since the run was trained"):
        ppvae.load(tmp_path / "latest", data=three_way(seed=1))
    ppvae.load(tmp_path / "latest", data=three_way())


def test_data_in_a_file_are_found_and_compared(tmp_path):
    np.savez(tmp_path / "own.npz", x=np.random.default_rng(0).standard_normal((40, 6)))
    fit("ppca", tmp_path / "own.npz", steps=1, save=True, out=tmp_path, **QUICK)
    assert ppvae.load(tmp_path / "latest").dataset is not None
    np.savez(tmp_path / "own.npz", x=np.random.default_rng(1).standard_normal((40, 6)))
    with pytest.raises(RunError, match="the data have changed"):
        ppvae.load(tmp_path / "latest")


def test_a_pair_of_ones_own_must_be_given_again_and_be_the_same(tmp_path):
    file = tmp_path / "own.py"
    file.write_text(OWN)
    place = f"{file}:PAIR"
    trained = fit(place, steps=2, save=True, out=tmp_path, **QUICK)
    with pytest.raises(RunError, match=r"your own pair .*own\.py:PAIR: give it again, --pair .*own\.py:PAIR"):
        ppvae.load(tmp_path / "latest")
    assert_equal(state(ppvae.load(tmp_path / "latest", pair=place)), state(trained))
    file.write_text(OWN + "# changed\n")
    with pytest.raises(
        RunError, match="has changed since the run was trained: give the version that trained it"
    ):
        ppvae.load(tmp_path / "latest", pair=place)
    with pytest.raises(RunError, match="has changed since the run"):
        fit(place, steps=4, resume=tmp_path / "latest")


def test_a_pair_in_memory_must_be_given_again(tmp_path):
    pair = ppvae.Pair(model=registry.find("ppca").model, guide=registry.find("ppca").guide, data="ppca_toy")
    trained = fit(pair, steps=2, save=True, out=tmp_path, **QUICK)
    with pytest.raises(RunError, match=r"a Pair passed from Python: load it there, with pair=\.\.\."):
        ppvae.load(tmp_path / "latest")
    assert_equal(state(ppvae.load(tmp_path / "latest", pair=pair)), state(trained))


def test_a_found_pair_goes_by_its_name(tmp_path):
    trained = fit(registry.find("ppca"), steps=2, save=True, out=tmp_path, **QUICK)
    assert_equal(state(ppvae.load(tmp_path / "latest")), state(trained))


@pytest.mark.parametrize(
    ("pair", "message"), [("ppca_full", "has no 'guide.scale_tril"), ("ppca", "has 'guide.")]
)
def test_another_pair_is_refused(pair, message, tmp_path):
    trains = "ppca" if pair == "ppca_full" else "ppca_full"
    fit(trains, steps=1, save=True, out=tmp_path, **QUICK)
    with pytest.raises(RunError, match=f"{message}.*use the pair and sizes it was trained with"):
        ppvae.load(tmp_path / "latest", pair=pair)


def test_a_damaged_config_and_a_missing_checkpoint(tmp_path):
    trained = fit("ppca", steps=1, save=True, out=tmp_path, **QUICK)
    assert trained.run is not None
    config = trained.run.path / "config.yaml"
    text = config.read_text()
    config.write_text(text.replace("pair: ppca", "pair: 3"))
    with pytest.raises(RunError, match="names no pair: restore it, or train again"):
        ppvae.load(tmp_path / "latest")
    config.write_text(text)
    for path in trained.run.checkpoints.glob("step-*"):
        path.rename(path.with_name("away"))
    with pytest.raises(RunError, match="no checkpoint that verifies"):
        ppvae.load(tmp_path / "latest")


def test_loading_moves_no_random_state(tmp_path):
    fit("ppca", steps=1, save=True, out=tmp_path, **QUICK)
    before = torch.get_rng_state()
    ppvae.load(tmp_path / "latest")
    assert torch.equal(before, torch.get_rng_state())


def test_the_verbs_take_arrays_and_refuse_what_is_not_finite():
    trained = fit("ppca", three_way(), steps=1, **QUICK)
    data: Any = trained.dataset
    x = data.train.batch(torch.arange(3))["x"]
    array: Any = np.asarray(x, dtype=np.float32)
    as_array = trained.encode(array)["z"]
    torch.testing.assert_close(as_array, trained.encode(x)["z"], rtol=1e-5, atol=1e-5)
    with pytest.raises(UsageError, match="not finite: put 0 there, and pass mask="):
        trained.encode(torch.full_like(x, float("nan")))
    wrong: list[Any] = [0, -1, 1.5, None]
    for n in wrong:
        with pytest.raises(UsageError, match="draw 1 or more"):
            trained.generate(n=n)


def test_missing_values_are_refused_where_the_model_takes_no_mask():
    x = torch.randn(40, 3)
    x[::2, 1] = float("nan")
    for check in (True, False):
        with pytest.raises(PairError, match=r"missing values .*takes no mask.*leave those rows out"):
            fit("ppca", x, steps=1, **{**QUICK, "check": check})
    assert fit("vae", x, steps=1, sizes={"likelihood": "gaussian", "hidden": [4]}, **QUICK).step == 1


def test_what_changed_on_the_way_is_recorded(tmp_path):
    fit("ppca", three_way(), epochs=1, save=True, out=tmp_path, **QUICK)
    fit("ppca", three_way(), resume=tmp_path / "latest", epochs=2)
    again = fit("ppca", three_way(), resume=tmp_path / "latest")
    assert again.config.epochs == 2
    assert again.step == 2 * (again.step // 2)
