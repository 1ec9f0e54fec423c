"""The scripts run end to end at toy size, and their records are whole."""

import json

import pytest
import torch

from ppvae.engine import compiling

TOY = {"steps": 6, "check_every": 2, "batch": 16, "test_n": 50, "levels": [-1000.0, -1.0], "seeds": [0, 1]}
needs_compiler = pytest.mark.skipif(
    compiling.missing_compiler(torch.device("cpu")) is not None, reason="there is no C++ compiler"
)


@pytest.mark.slow
@needs_compiler
def test_step_time_runs(script, tmp_path, monkeypatch):
    step_time = script("step_time")
    monkeypatch.setattr(script("timed_cases"), "MLP", {"hidden": (8,), "latent": 2})
    monkeypatch.setattr(step_time, "has_numpyro", lambda: False)
    monkeypatch.setattr(script("contestants"), "has_numpyro", lambda: False)
    out = tmp_path / "found" / "step_time.json"
    step_time.main(["--out", str(out), "--case", "mlp", "--pairs", "3", "--steps", "2", "--batch", "16"])
    record = json.loads(out.read_text())
    case = record["cases"]["mlp"]
    assert case["missing"] == {}
    assert list(case["milliseconds"]) == [
        *("ours eager", "ours graph", "hand eager", "hand compiled", "hand traced", "ours graph bf16"),
        *("Pyro SVI", "Pyro unvalidated"),
    ]
    assert all(len(times) == 3 and min(times) > 0 for times in case["milliseconds"].values())
    assert case["to_ours_graph"]["ours graph"] == {"ratio": 1.0, "low": 1.0, "high": 1.0}
    lines = {(line["first"], line["second"]): line for line in record["must_hold"]}
    assert ("ours graph", "Pyro SVI") in lines
    assert not any("NumPyro" in second for _, second in lines)
    assert record["versions"]["torch"]
    assert record["rounds"] == 3


def test_what_was_not_timed_does_not_hold(script):
    """A contestant of ours that could not run has failed its limit; NumPyro may not be installed."""
    step_time = script("step_time")
    times = {"ours graph": [1.0] * 7, "Pyro SVI": [2.0] * 7, "hand traced": [0.9] * 7}
    lines = step_time.held({"mlp": {"milliseconds": times}})
    found = {line["second"]: (line["holds"], line.get("ratio")) for line in lines}
    assert found == {
        "Pyro SVI": (True, 0.5),
        "hand traced": (False, pytest.approx(1 / 0.9)),
        "hand compiled": (False, None),
    }


def test_the_rounds_of_processes_are_one_record(script):
    step_time = script("step_time")

    def record(ours, hand, missing=()):
        times = {"ours graph": ours, "hand traced": hand, "Pyro SVI": [5.0] * 3}
        case = {"steps": 3, "missing": dict.fromkeys(missing, "no"), "milliseconds": times}
        return {"rounds": 3, "seconds": 1.0, "load_before": 0.1, "cases": {"mlp": case}}

    first, second = record([1.0] * 3, [1.0] * 3), record([2.0] * 3, [1.0] * 3, ["Pyro SVI"])
    found = step_time.joined([first, second])
    assert (found["rounds"], found["processes"], found["seconds"]) == (6, 2, 2.0)
    assert found["cases"]["mlp"]["milliseconds"] == {
        "ours graph": [1.0] * 3 + [2.0] * 3,
        "hand traced": [1.0] * 6,
    }
    (line,) = (line for line in found["must_hold"] if line["second"] == "hand traced")
    assert line["each"] == [1.0, 2.0]
    assert line["ratio"] == 1.5
    assert not line["holds"]


def test_whoever_cannot_begin_is_written_down(script, monkeypatch):
    step_time = script("step_time")
    from ppvae.data import load

    def broken(order):
        raise ValueError("no such luck\nmore")

    def few(field):
        return {"ours graph": field.ours("eager"), "hand compiled": broken}

    monkeypatch.setattr(step_time, "contestants", few)
    options = step_time.asked(["--out", "x", "--pairs", "2", "--batch", "8", "--steps", "1"])
    found = step_time.timed("mlp", step_time.cases()["mlp"], load("digits"), options)
    assert found["missing"] == {"hand compiled": "ValueError: no such luck"}
    assert list(found["milliseconds"]) == ["ours graph"]
    assert found["equal"]["gradients"] < 1e-3


def test_runs_to_a_quality_draw_the_same_numbers(script):
    """Ours and by hand have one elbo at every check; Pyro, whose sums Adam's eps does not know, nearly."""
    train = script("time_to_quality").train
    schedule = {**script("time_to_quality").SCHEDULE, **TOY}
    runs = {who: train(who, 1, schedule) for who in ("ours eager", "ours auto", "hand eager", "Pyro SVI")}
    elbos = {who: [check["elbo"] for check in run["checks"]] for who, run in runs.items()}
    assert [check["step"] for check in runs["hand eager"]["checks"]] == [2, 4, 6]
    assert elbos["ours eager"][-1] > elbos["ours eager"][0]
    for who in ("ours auto", "hand eager", "Pyro SVI"):
        assert elbos[who] == pytest.approx(elbos["ours eager"], rel=1e-3)
    assert all(run["checks"][0]["seconds"] < run["checks"][-1]["seconds"] for run in runs.values())


def test_the_order_is_that_of_whole_epochs(script):
    order = script("time_to_quality").order
    schedule = {"steps": 5, "batch": 3}
    batches = list(order(7, schedule, seed=0))
    assert [len(batch) for batch in batches] == [3] * 5
    for epoch in (batches[:2], batches[2:4]):
        assert len(set(torch.cat(epoch).tolist())) == 6
    assert not torch.equal(torch.cat(batches[:2]), torch.cat(batches[2:4]))
    again = list(order(7, schedule, seed=0))
    assert all(torch.equal(a, b) for a, b in zip(batches, again, strict=True))


def test_seconds_to_a_level_are_paired_over_seeds(script):
    found = script("time_to_quality").summary(
        {"levels": [-2.0, -1.0], "contestants": ["a", "b"], "against": "b"},
        [
            {"contestant": who, "seed": seed, "checks": [
                {"seconds": base + seed, "elbo": -3.0}, {"seconds": 2 * base + seed, "elbo": -1.5},
            ]}
            for who, base in (("a", 10.0), ("b", 4.0)) for seed in (0, 1, 2)
        ],
    )  # fmt: skip
    first, second, third, fourth = found
    assert first["seconds"] == {0: 20.0, 1: 21.0, 2: 22.0}
    assert (first["more"], first["low"], first["high"]) == (12.0, 12.0, 12.0)
    assert second == {"level": -2.0, "contestant": "b", "seconds": {0: 8.0, 1: 9.0, 2: 10.0}}
    assert third == {"level": -1.0, "contestant": "a", "seconds": {}}
    assert fourth["seconds"] == {}


@pytest.mark.slow
def test_time_to_quality_runs(script, tmp_path):
    out = tmp_path / "found.json"
    schedule = {**TOY, "contestants": ["ours eager", "ours auto"], "seeds": [0], "warmed_by": "ours auto"}
    script("time_to_quality").main(["--out", str(out), "--schedule", json.dumps(schedule)])
    record = json.loads(out.read_text())
    assert [(run["contestant"], run["seed"]) for run in record["runs"]] == [
        ("ours eager", 0),
        ("ours auto", 0),
    ]
    assert record["first"]["contestant"] == "ours auto"
    assert record["schedule"]["steps"] == 6
    assert len(record["summary"]) == 4
