"""metrics.jsonl: a reader sees every line at once; a kill or a full disk costs the last one at most."""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ppvae.errors import RunError
from ppvae.runs import Run, files


@pytest.fixture
def run(tmp_path):
    with Run.create(tmp_path / "runs", "vae", "digits", "elbo", {}) as made:
        yield made


def test_metrics_come_back_and_are_there_at_once(run):
    run.log_metrics(
        step=50, elbo=-120.5, rate=np.float32(20.5), distortion=torch.tensor(100.0), sites={"z": [1, 2]}
    )
    assert (run.path / "metrics.jsonl").read_text().endswith('"sites": {"z": [1, 2]}}\n')
    run.log_metrics(step=100, valid_elbo=None, note="ok", counts=np.arange(2))
    assert Run.open(run.path).metrics() == [
        {"step": 50, "elbo": -120.5, "rate": 20.5, "distortion": 100.0, "sites": {"z": [1, 2]}},
        {"step": 100, "valid_elbo": None, "note": "ok", "counts": [0, 1]},
    ]


def test_what_is_not_finite_is_valid_json_and_comes_back(run):
    run.log_metrics(step=1, a=math.nan, b=math.inf, c=[-math.inf, torch.tensor(math.nan)])
    text = (run.path / "metrics.jsonl").read_text()
    assert json.loads(text, parse_constant=pytest.fail)["b"] == "Infinity"
    (entry,) = run.metrics()
    assert math.isnan(entry["a"])
    assert entry["b"] == math.inf
    assert entry["c"][0] == -math.inf
    assert math.isnan(entry["c"][1])


def test_a_value_that_json_cannot_hold_is_named(run):
    with pytest.raises(RunError, match=r"metrics.model is a object"):
        run.log_metrics(step=1, model=object())
    assert run.metrics() == []


@settings(max_examples=30, deadline=None)
@given(
    entries=st.lists(
        st.dictionaries(st.sampled_from("abc"), st.floats() | st.integers(), max_size=3), min_size=1
    ),
    cut=st.integers(1, 200),
)
def test_a_half_written_last_line_is_skipped_then_repaired(tmp_path_factory, entries, cut):
    with Run.create(tmp_path_factory.mktemp("runs"), "vae", "digits", "elbo", {}) as made:
        for step, entry in enumerate(entries):
            made.log_metrics(step=step, **entry)
        file = made.path / "metrics.jsonl"
        data = file.read_bytes()
        last = len(data) - (data[:-1].rfind(b"\n") + 1)
        lost = min(cut, last)
        file.write_bytes(data[: len(data) - lost])
    again = Run.open(made.path)
    found = again.metrics()
    assert len(found) == len(entries) - (lost > 1)
    again.log_metrics(step=99)
    assert repr(again.metrics()) == repr([*found, {"step": 99}])
    again.close()


def test_a_damaged_line_in_the_middle_is_named(run):
    (run.path / "metrics.jsonl").write_text('{"step": 1}\n{"st\n{"step": 3}\n')
    with pytest.raises(RunError, match=r"metrics\.jsonl, line 2 is damaged"):
        run.metrics()


def test_a_resumed_run_forgets_what_it_will_write_again(run):
    for step in (10, 20, 30):
        run.log_metrics(step=step, elbo=-math.inf)
    run.drop_metrics_after(20)
    assert [entry["step"] for entry in run.metrics()] == [10, 20]
    run.log_metrics(step=25)
    assert [entry["step"] for entry in run.metrics()] == [10, 20, 25]


def test_a_full_disk_takes_back_what_it_cut_off(run, monkeypatch):
    import errno

    run.log_metrics(step=1)

    class Full:
        def __init__(self, path, mode, buffering=-1):
            self.file = open(path, mode, buffering=buffering)  # noqa: SIM115
            self.seek, self.truncate, self.left = self.file.seek, self.file.truncate, 5

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.file.close()

        def write(self, data):
            if not self.left:
                raise OSError(errno.ENOSPC, "No space left on device")
            done, self.left = self.file.write(data[: self.left]), 0
            return done

    with monkeypatch.context() as patch:
        patch.setattr(files, "open", Full, raising=False)
        with pytest.raises(RunError, match=r"metrics.jsonl cannot be written .No space left"):
            run.log_metrics(step=2)
    run.log_metrics(step=3)
    assert [entry["step"] for entry in run.metrics()] == [1, 3]
