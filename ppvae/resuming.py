"""Everything that a training loop needs to go on as if it had never stopped: keep it, and restore it."""

from __future__ import annotations

import json
import time
from typing import Any

import pyro
from torch import Tensor

from ppvae import checkpoint
from ppvae.engine import SVIStep
from ppvae.errors import RunError, UsageError
from ppvae.loop import Loop
from ppvae.runs import Run
from ppvae.state import capture_generators, flatten, noise_seed, restore_generators, unflatten
from ppvae.trained import restore_parameters


def keep(loop: Loop) -> None:
    """Everything that going on needs; training ends with the `best.` tensors, if there are any.

    Every rank says where its generators stand; rank 0 writes.
    """
    if loop.window.count:
        loop.means()  # no parameters that are no numbers are kept, and none are left from a step that was not
    everyone = loop.ranks.gathered(capture_generators())
    if loop.run is None:
        return
    tensors = {f"pair.{name}": t for name, t in loop.built.state_dict().items()}
    tensors |= {f"estimator.{name}": t for name, t in loop.estimator.state_dict().items()}
    if loop.best_state is not None:
        tensors |= {f"best.{name}": t for name, t in loop.best_state.items()}
    optimizers: dict[str, Any] = {}
    for name, optimizer in loop.step.optimizers.items():
        flat, optimizers[name] = flatten(optimizer.state_dict())
        tensors |= {f"optimizer.{name}.{key}": t for key, t in flat.items()}
    tensors |= {f"window.{name}": t for name, t in loop.window.sums.items()}
    for rank, (generators, _) in enumerate(everyone):
        tensors |= {f"{_generators_of(rank)}{name}": t for name, t in generators.items()}
    state = {
        "step": loop.step_count,
        "total": loop.total,
        "stopped": loop.stopped,
        "best": loop.best,
        "window": loop.window.count,
        "seconds": time.monotonic() - loop.started,
        "optimizers": optimizers,
        "generators": everyone[0][1],
        "further_generators": [rest for _, rest in everyone[1:]],
        "engine": loop.step.state(),
    }
    checkpoint.save(loop.run.checkpoints, loop.step_count, tensors, state)


def go_on(loop: Loop, run: Run, about: dict[str, Any]) -> None:
    """Go on where the run's last checkpoint that verifies left off."""
    if isinstance(loop.step, SVIStep):
        raise UsageError("engine=pyro cannot resume, Pyro's optimizers keep their state: use engine=eager")
    _same_run(loop, run, about)
    last = loop.ranks.from_first(lambda: checkpoint.latest(run.checkpoints))
    if last is None:
        raise RunError(f"run {run.path} has no checkpoint that verifies: train again without --resume")
    tensors, state = checkpoint.load(last)
    _same_length(loop, run, state)
    restore_parameters(loop.built, tensors, str(last))
    loop.estimator.load_state_dict(_part(tensors, "estimator."))
    loop.best = tuple(state["best"]) if state["best"] else None
    loop.best_state = {k: t.to(loop.built.device) for k, t in _part(tensors, "best.").items()} or None
    for name, optimizer in loop.step.optimizers.items():
        flat = _part(tensors, f"optimizer.{name}.")
        optimizer.load_state_dict(unflatten(flat, state["optimizers"][name]))
    sums = {k: t.to(loop.built.device) for k, t in _part(tensors, "window.").items()}
    loop.window.restore(sums, state["window"])
    loop.step_count, loop.seconds_before = int(state["step"]), state["seconds"]
    loop.step.validated = True
    loop.step.restore(state.get("engine") or {})
    if loop.ranks.first:
        loop.run = run
        _go_on_writing(loop, run, about)
    _restore_generators(loop, tensors, [state["generators"], *state.get("further_generators", [])])


def _generators_of(rank: int) -> str:
    """The start of the names of a rank's generators in a checkpoint."""
    return f"rank{rank}.generator." if rank else "generator."


def _restore_generators(loop: Loop, tensors: dict[str, Tensor], saved: list[Any]) -> None:
    """As they stood; on another number of ranks new ones, seeded by seed, rank and step: no rank could go on
    with its own, and none may draw again what it drew before."""
    rank, step = loop.ranks.rank, loop.step_count
    if len(saved) == loop.ranks.size:
        restore_generators(_part(tensors, _generators_of(rank)), saved[rank])
        return
    pyro.set_rng_seed(noise_seed(loop.config.seed, rank, step))
    if loop.run is not None:
        text = f"{len(saved)} processes until step {step}, {loop.ranks.size} from there on: draws seeded anew"
        loop.run.log(text)


def _go_on_writing(loop: Loop, run: Run, about: dict[str, Any]) -> None:
    _trim_metrics(loop, run)
    # What may change on the way is recorded, so that the next resume goes on to the same end.
    run.record({**run.config, **loop.config.to_dict(), **about})


def _trim_metrics(loop: Loop, run: Run) -> None:
    """Forget what comes after the checkpoint, and what was logged only because training ended there."""
    if loop.step_count == loop.total:  # it still ends there
        run.drop_metrics_after(loop.step_count)
        loop.history = run.metrics()
        return
    entries = [e for e in run.metrics() if e["step"] <= loop.step_count]
    loop.history = [e for e in entries if e["step"] < loop.step_count or loop.is_due(e)]
    run.drop_metrics_after(loop.step_count - 1)
    for entry in loop.history:
        if entry["step"] == loop.step_count:
            run.log_metrics(**entry)


def _same_length(loop: Loop, run: Run, state: dict[str, Any]) -> None:
    done = state["step"] >= state["total"]
    if state["stopped"]:
        raise RunError(
            f"run {run.path} stopped early, after {loop.config.patience} epochs without a better "
            "validation bound: start a new run with a larger --patience"
        )
    if loop.total < state["step"]:
        raise UsageError(
            f"run {run.path} has done {state['step']} steps, more than {loop.total}: "
            "give more --epochs or --steps"
        )
    if loop.config.schedule != "constant" and state["total"] != loop.total:
        raise RunError(
            f"run {run.path} has schedule={loop.config.schedule} over {state['total']} steps, not "
            f"{loop.total}: "
            + ("it is complete, start a new run" if done else "leave --epochs and --steps out to go on")
        )


def _same_run(loop: Loop, run: Run, about: dict[str, Any]) -> None:
    saved = dict(run.config)
    same_source = about["pair_hash"] is not None and saved.get("pair_hash") == about["pair_hash"]
    if saved.get("pair") != about["pair"] and not same_source:
        raise RunError(
            f"run {run.path} trains the pair {saved.get('pair')}, not {about['pair']}: "
            "give the same pair to go on"
        )
    if saved.get("pair_hash") != about["pair_hash"]:
        raise RunError(
            f"{about['pair']} has changed since the run {run.path} began: put the file back to go on"
        )
    # As YAML gives it back: a tuple is a list there.
    now = json.loads(json.dumps(loop.config.to_dict(), default=str))
    free = {"epochs", "steps", "out", "progress", "device", "threads", "log_every", "checkpoint_every",
            "check", "eval_k", "eval_n", "data", "engine", "on_nonfinite"}  # fmt: skip
    for name, value in now.items():
        if name not in free and saved.get(name) != value:
            raise RunError(
                f"run {run.path} has {name}={saved.get(name)!r}, not {value!r}: leave the option out to go on"
            )
    if loop.dataset is not None and saved.get("data_hash") != loop.dataset.hash:
        raise RunError(f"run {run.path} was trained on other data: give the same data to go on")


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
