"""The command line: `ppvae list | check | train | evaluate | sample | new`.

Nothing heavy is imported before a command runs, so that `--help` answers at once. Errors are one line on stderr; the exit
status is 2 for usage, 1 for failure, 130 or 143 after SIGINT or SIGTERM.
"""

from __future__ import annotations

import dataclasses
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
import yaml

from ppvae import __version__
from ppvae.config import TrainConfig
from ppvae.errors import PPVAEError, UsageError, nearest

PairName = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="PAIR")]
RunPath = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
Pairs = Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME=VALUE ...")]


def list_() -> None:
    """List the pairs and data sets by name."""
    from ppvae import commands

    commands.list_pairs()


def check(
    pair: PairName,
    /,
    data: str | None = None,
    binarization: Literal["none", "static", "dynamic", "threshold"] | None = None,
    sizes: Pairs = (),
    seed: int = 0,
) -> int:
    """Check that a guide fits its model and both fit the data: every finding names file, line and fix.

    Args:
        pair: A name, my_module:PAIR or path/to/file.py:PAIR.
        data: A data set instead of the pair's own.
        binarization: How grey pixels become bits.
        sizes: Constructor arguments, such as latent=20.
        seed: Seed of the parameters and the draws.
    """
    from ppvae import commands

    return commands.check_pair(pair, data, binarization, values(sizes), seed)


def train(
    pair: PairName,
    /,
    options: Annotated[TrainConfig, tyro.conf.OmitArgPrefixes],
    config: Path | None = None,
    resume: str | None = None,
) -> None:
    """Train a pair; writes a run folder with samples, curves, evaluation.json and the checkpoint.

    Args:
        pair: A name, my_module:PAIR or path/to/file.py:PAIR.
        options: How to train.
        config: A YAML file of options; flags win.
        resume: A run folder to go on with, or latest.
    """
    from ppvae import commands

    del config  # read before the flags were parsed
    commands.train_pair(pair, options, resume)


def evaluate(
    run: RunPath,
    /,
    k: int = 1000,
    n: int = 1000,
    split: Literal["test", "valid", "train"] = "test",
    seed: int = 0,
    pair: str | None = None,
    device: str = "auto",
) -> None:
    """Score a run on held-out data: test elbo, log p(x), rate and distortion; writes evaluation.json.

    Args:
        run: A run folder, or latest.
        k: Importance samples per datum.
        n: Shuffled data of the split for log p(x); the elbo uses all.
        split: Which data.
        seed: Seed of the draws and the shuffling.
        pair: The pair again, if it is not a built-in one.
        device: auto, cpu, cuda or cuda:N.
    """
    from ppvae import commands

    commands.evaluate_run(run, k=k, n=n, split=split, seed=seed, pair=pair, device=device)


def sample(
    run: RunPath,
    /,
    n: int = 64,
    seed: int = 0,
    pair: str | None = None,
    device: str = "auto",
) -> None:
    """Draw from a run's model: grids of samples and of reconstructions as PNG in the run's figures folder.

    Args:
        run: A run folder, or latest.
        n: How many samples.
        seed: Seed of the draws.
        pair: The pair again, if it is not a built-in one.
        device: auto, cpu, cuda or cuda:N.
    """
    from ppvae import commands

    commands.sample_run(run, n=n, seed=seed, pair=pair, device=device)


def new(name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="NAME")], /, folder: Path = Path(".")) -> None:
    """Write a pair of your own to start from: a model, a guide and a test that pass at once.

    Args:
        name: Its name, a Python identifier.
        folder: Where to write it.
    """
    from ppvae import commands

    commands.new_pair(name, folder)


COMMANDS: dict[str, Callable[..., Any]] = {
    "list": list_,
    "check": check,
    "train": train,
    "evaluate": evaluate,
    "sample": sample,
    "new": new,
}


def values(pairs: tuple[str, ...]) -> dict[str, Any]:
    """`("latent=20", "hidden=[200, 200]")` -> `{"latent": 20, "hidden": [200, 200]}`, values read as YAML."""
    found = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name.isidentifier():
            raise UsageError(f"{pair!r} is no NAME=VALUE, as in latent=20")
        found[name] = yaml.safe_load(value)
    return found


def _registry() -> tyro.constructors.ConstructorRegistry:
    """Options that are dicts are given as NAME=VALUE words."""
    registry = tyro.constructors.ConstructorRegistry()

    @registry.primitive_rule
    def _(info: tyro.constructors.PrimitiveTypeInfo) -> tyro.constructors.PrimitiveConstructorSpec | None:
        if info.type_origin is not dict:
            return None
        return tyro.constructors.PrimitiveConstructorSpec(
            nargs="*",
            metavar="NAME=VALUE",
            instance_from_str=lambda words: values(tuple(words)),
            is_instance=lambda x: isinstance(x, dict),
            str_from_instance=lambda x: [f"{k}={v}" for k, v in x.items()],
        )

    return registry


def _recipe(argv: list[str]) -> TrainConfig:
    """The defaults of `train`: those of the file that --config names, if it is given."""
    found = TrainConfig()
    for i, word in enumerate(argv):
        flag, equals, value = word.partition("=")
        if flag == "--config":
            path = Path(value if equals else (argv[i + 1] if i + 1 < len(argv) else ""))
            found = read_recipe(path)
    return found


def read_recipe(path: Path) -> TrainConfig:
    """A TrainConfig from YAML. Raises UsageError naming the file and what is wrong with it."""
    if not path.is_file():
        raise UsageError(f"no file {path}: --config wants a YAML file of training options")
    try:
        values = yaml.safe_load(path.read_text()) or {}
    except yaml.YAMLError as error:
        raise UsageError(f"{path} is no YAML: {str(error).splitlines()[0]}") from None
    if not isinstance(values, dict):
        raise UsageError(f"{path} holds a {type(values).__name__}: write one option: value a line")
    known = {field.name for field in dataclasses.fields(TrainConfig)}
    # A run's own config.yaml is a recipe too; what it records beyond the options is left out.
    recorded = {"pair", "pair_hash", "data_name", "data_hash", "data_in_memory"}
    try:
        return TrainConfig.from_dict({k: v for k, v in values.items() if k in known or k not in recorded})
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from None


def _commands(argv: list[str]) -> dict[str, Callable[..., Any]]:
    if argv[:1] != ["train"]:
        return COMMANDS
    default = _recipe(argv)

    def train_(
        pair: PairName,
        /,
        options: Annotated[TrainConfig, tyro.conf.OmitArgPrefixes] = default,
        config: Path | None = None,
        resume: str | None = None,
    ) -> None:
        train(pair, options, config, resume)

    train_.__doc__ = train.__doc__
    return {**COMMANDS, "train": train_}


def main(argv: list[str] | None = None) -> int:
    """The entry point: returns the exit status."""
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] in (["--version"], ["-V"]):
        print(f"ppvae {__version__}")
        return 0
    signal.signal(signal.SIGTERM, _terminated)
    try:
        if argv and not argv[0].startswith("-") and argv[0] not in COMMANDS:
            raise UsageError(f"no command {argv[0]!r}{nearest(argv[0], COMMANDS)} There are: {', '.join(COMMANDS)}")
        if not argv:
            argv = ["--help"]
        status = tyro.extras.subcommand_cli_from_dict(
            _commands(argv),
            prog="ppvae",
            description="Deep generative models as Pyro model/guide pairs: write, compare and teach variational inference.",
            args=argv,
            registry=_registry(),
        )
        return status or 0
    except PPVAEError as error:
        print(f"ppvae: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("ppvae: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 1


def _terminated(*_: Any) -> None:
    raise SystemExit(143)


if __name__ == "__main__":
    sys.exit(main())
