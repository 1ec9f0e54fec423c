"""The command line: `ppvae list | check | train | evaluate | compare | sample | new`.

Nothing heavy is imported before a command runs, so that `--help` answers at once. Errors are one line on
stderr; the exit status is 2 for usage, 1 for failure, 130 or 143 after SIGINT or SIGTERM.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
import io
import itertools
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
import yaml

from ppvae import __version__, launched
from ppvae.comparison.options import CompareConfig, read_schedule
from ppvae.config import TrainConfig
from ppvae.errors import PPVAEError, UsageError, nearest
from ppvae.evaluation_config import EvaluationConfig
from ppvae.option_files import read_options

PairName = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="PAIR")]
Checked = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="PAIR|ESTIMATOR")]
RunPath = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
MaybePair = Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="PAIR")]
_NO_CHOICE = CompareConfig()
_EVALUATION = EvaluationConfig()
DESCRIPTION = (
    "Deep generative models as Pyro model/guide pairs: write, compare and teach variational inference."
)
Pairs = Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME=VALUE ...")]


def list_() -> None:
    """List the pairs, estimators and data sets by name."""
    from ppvae import commands

    commands.list_pairs()


def check(
    pair: Checked,
    /,
    data: str | None = None,
    binarization: Literal["none", "static", "dynamic", "threshold"] | None = None,
    sizes: Pairs = (),
    seed: int = 0,
    speed: bool = False,
    estimator: str | None = None,
    batch: int | None = None,
    threads: int | None = None,
    device: str | None = None,
    precision: Literal["float32", "tf32", "bf16"] | None = None,
    compile: bool = True,
) -> int:
    """Check that a guide fits its model and both fit the data: every finding names file, line and fix. Or
    hold an estimator, such as iwae:k=5 or path/to/file.py:MyEstimator, against pairs whose truth is known.

    Args:
        pair: A name, my_module:PAIR or path/to/file.py:PAIR; or an estimator.
        data: A data set instead of the pair's own.
        binarization: How grey pixels become bits.
        sizes: Constructor arguments, such as latent=20.
        seed: Seed of the parameters and the draws.
        speed: Instead, time a training step and its parts, count what slows it down, and say what to change.
        estimator: With --speed, what is maximized, as for train.
        batch: With --speed, data in a batch.
        threads: With --speed, CPU threads of torch.
        device: With --speed, auto, cpu, cuda or cuda:N.
        precision: With --speed, how exactly the nets compute.
        compile: With --speed, compile the step, too: 10 to 60 seconds the first time.
    """
    own = {"estimator": estimator, "batch": batch, "threads": threads, "device": device}
    own |= {"precision": precision}
    own = {name: value for name, value in own.items() if value is not None}
    if speed:
        from ppvae import commands_speed

        shared = {"binarization": binarization, "sizes": values(sizes), "seed": seed}
        return commands_speed.check_speed(pair, data, {**shared, **own}, compile)
    if own or not compile:
        option = f"--{next(iter(own), 'no-compile')}"
        raise UsageError(f"{option} is an option of --speed: ppvae check {pair} --speed {option}")
    from ppvae import commands

    return commands.check_named(pair, data, binarization, values(sizes), seed)


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
    options: Annotated[EvaluationConfig, tyro.conf.OmitArgPrefixes] = _EVALUATION,
    pair: str | None = None,
    device: str = "auto",
) -> None:
    """Score a run on held-out data: elbo, log p(x), and how far its guide can be trusted; writes
    evaluation.json and report.html.

    Args:
        run: A run folder, or latest.
        options: What is measured, and how closely.
        pair: The pair again, if it is not a built-in one.
        device: auto, cpu, cuda or cuda:N.
    """
    from ppvae import commands

    commands.evaluate_run(run, options, pair=pair, device=device)


def compare(
    pair: MaybePair = None,
    /,
    options: Annotated[CompareConfig, tyro.conf.OmitArgPrefixes] = _NO_CHOICE,
    config: Path | None = None,
    resume: str | None = None,
    fresh: bool = False,
) -> None:
    """Compare estimators on a pair: train each under one budget, and look at bias, variance and cost of their
    gradients; writes a folder with compare.json and report.html, from which a stopped comparison goes on.

    Args:
        pair: A name, my_module:PAIR or path/to/file.py:PAIR.
        options: What is compared, and how.
        config: A YAML file of options, and of the pair; flags win.
        resume: A comparison's folder to go on with, or latest; --estimators and --seeds list anew what is
            shown, what else it holds is kept.
        fresh: With --resume, throw away what the folder has.
    """
    from ppvae import commands_compare

    if pair is None and config is not None:
        pair = read_schedule(config)[0]
    commands_compare.compare_estimators(pair, options, resume, fresh)


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


def new(
    name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="NAME")], /, folder: Path = Path(".")
) -> None:
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
    "compare": compare,
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
        try:
            found[name] = _number(yaml.safe_load(value))
        except yaml.YAMLError:
            raise UsageError(f"{pair!r} has no value that can be read: write it as in latent=20") from None
    return found


def _number(value: Any) -> Any:
    """YAML reads 1e-3 as a text; lists may hold such ones, too."""
    if isinstance(value, list):
        return [_number(item) for item in value]
    with contextlib.suppress(ValueError, TypeError):
        return float(value) if isinstance(value, str) else value
    return value


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


def _recipe(argv: list[str], own: Mapping[str, Any]) -> TrainConfig:
    """The defaults of `train`: those of --config's file, else of the run that --resume goes on with; below
    them lie the pair's own."""
    given = {name: _given(argv, name) for name in ("--config", "--resume", "--out")}
    if given["--config"] is not None:
        return read_recipe(Path(given["--config"]), own)
    if given["--resume"] is None:
        return TrainConfig.from_dict(dict(own))
    from ppvae.runs import CONFIG, Run

    root = Path(given["--out"] or TrainConfig().out)
    found = read_recipe(Run.open(given["--resume"], root=root).path / CONFIG)
    # The run's own number of steps would win over the epochs that are asked for.
    return found if _given(argv, "--epochs") is None else dataclasses.replace(found, steps=None)


def _given(argv: list[str], option: str) -> str | None:
    """The value of an option, None where it is not given; the last one counts."""
    found = None
    for word, following in zip(argv, [*argv[1:], ""], strict=True):
        flag, equals, value = word.partition("=")
        if flag == option:
            found = value if equals else following
    return found


def read_recipe(path: Path, own: Mapping[str, Any] | None = None) -> TrainConfig:
    """A TrainConfig from YAML, which may be a run's own config.yaml; it wins over the pair's `own` options.

    Raises:
        UsageError: says what is wrong with which file.
    """
    values = read_options(path, "training options")
    try:
        return TrainConfig.from_run({**(own or {}), **values})
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from None


def _schedule(argv: list[str]) -> CompareConfig:
    """The defaults of `compare`: those of --config's file, else of the folder that --resume goes on with."""
    given = {name: _given(argv, name) for name in ("--config", "--resume", "--out")}
    if given["--config"] is not None:
        return CompareConfig.from_dict(read_schedule(Path(given["--config"]))[1])
    if given["--resume"] is None:
        return _NO_CHOICE
    from ppvae.comparison.folders import saved_options

    return saved_options(given["--resume"], Path(given["--out"] or _NO_CHOICE.out))


def _commands(argv: list[str], own: Mapping[str, Any]) -> dict[str, Callable[..., Any]]:
    if argv[:1] == ["compare"] and not {"--help", "-h"} & set(argv):
        chosen = _schedule(argv)

        def compare_(
            pair: MaybePair = None,
            /,
            options: Annotated[CompareConfig, tyro.conf.OmitArgPrefixes] = chosen,
            config: Path | None = None,
            resume: str | None = None,
            fresh: bool = False,
        ) -> None:
            compare(pair, options, config, resume, fresh)

        compare_.__doc__ = compare.__doc__
        return {**COMMANDS, "compare": compare_}
    if argv[:1] != ["train"] or "--help" in argv or "-h" in argv:
        return COMMANDS
    default = _recipe(argv, own)

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


def _later(command: Callable[..., Any]) -> Callable[..., Any]:
    """The command with its options filled in, to be called once the command line has been understood."""

    @functools.wraps(command)
    def filled(*args: Any, **options: Any) -> Callable[[], Any]:
        return functools.partial(command, *args, **options)

    return filled


def parse(argv: list[str]) -> Callable[[], int | None]:
    """What the words ask for. SystemExit(0) after --help; UsageError for what is not understood."""
    if argv and not argv[0].startswith("-") and argv[0] not in COMMANDS:
        close = nearest(argv[0], COMMANDS) or "."
        raise UsageError(f"no command {argv[0]!r}{close} There are: {', '.join(COMMANDS)}")
    _refuse_flags(argv)
    if launched.size() > 1 and argv[:1] != ["train"]:
        raise UsageError(f"only train runs on several processes: start {' '.join(argv[:1])} without torchrun")
    command = _understood(argv, {})
    if argv[:1] != ["train"]:
        return command
    # The words are read once to learn the pair, and once more above the options that suit it.
    from ppvae.registry import find

    return _understood(argv, find(command.args[0]).train)


def _understood(argv: list[str], own: Mapping[str, Any]) -> functools.partial[int | None]:
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.extras.subcommand_cli_from_dict(
                {name: _later(command) for name, command in _commands(argv, own).items()},
                prog="ppvae",
                description=DESCRIPTION,
                args=argv or ["--help"],
                registry=_registry(),
            )
    except SystemExit as stop:
        if not stop.code:
            raise
        raise UsageError(_one_line(said.getvalue(), argv)) from None


def _refuse_flags(argv: list[str]) -> None:
    """A misspelt flag, with the nearest one."""
    if not argv or argv[0] not in COMMANDS:
        return
    names = [
        n
        for n, p in inspect.signature(COMMANDS[argv[0]]).parameters.items()
        if p.kind is not p.POSITIONAL_ONLY
    ]
    known = {"train": TrainConfig, "compare": CompareConfig, "evaluate": EvaluationConfig}
    options = known.get(argv[0])
    fields = dataclasses.fields(options) if options is not None else ()
    names = [n for n in names if n != "options"] + [f.name for f in fields]
    flags = [f"--{name.replace('_', '-')}" for name in names]
    switches = [f.name for f in fields if f.type == "bool"]
    switches += [
        n for n, p in inspect.signature(COMMANDS[argv[0]]).parameters.items() if p.annotation == "bool"
    ]
    flags += [f"--no-{name.replace('_', '-')}" for name in switches] + ["--help"]
    for word in argv[1:]:
        flag = word.partition("=")[0].replace("_", "-")
        if flag.startswith("--") and flag not in flags:
            close = nearest(flag, flags) or "."
            raise UsageError(f"{argv[0]} has no option {flag}{close} See ppvae {argv[0]} --help")


def _one_line(box: str, argv: list[str]) -> str:
    """The parser's message without the frame it draws and the help it repeats."""
    rows = [re.sub(r"\x1b\[[0-9;]*m", "", row).strip("│╭╮╰╯ ") for row in box.splitlines()]
    rules = [i for i, row in enumerate(rows) if set(row) <= set("─-")]  # empty rows, too
    body = itertools.dropwhile(lambda i: i in rules, range(1, len(rows)))  # the first row is the title
    text = " ".join(rows[i] for i in itertools.takewhile(lambda i: i not in rules, body))
    for pattern, said in _SAID:
        text = re.sub(pattern, said, text)
    if choice := re.search(r"no choice '(.*?)'.*There are: (.*)$", text):
        text = text.replace(". There are", f"{nearest(choice[1], choice[2].split(', ')) or '.'} There are")
    command = f"ppvae {argv[0]}" if argv and argv[0] in COMMANDS else "ppvae"
    # Our own messages say what to do; the parser's do not.
    return text if re.search(r": use |: give | There are: ", text) else f"{text}; see {command} --help"


_SAID = (
    (r"^Error parsing (__\S+|\[.*?\]): ", ""),
    (r"^Error parsing (\S+): ", r"\1: "),
    (r"invalid literal for int\(\) with base 10: (.*)$", r"\1 is no whole number"),
    (r"could not convert string to float: (.*)$", r"\1 is no number"),
    (r"^Missing from (.*?): (\S+) (.*?)\.? ?\(required\)$", r"\1 needs \2: \3"),
    (r"^Missing value for argument '(\S+)'.*$", r"\1 needs a value"),
    (
        r"^invalid choice '(.*?)' for argument '(\S+)'\. Expected one of \((.*?),?\)\.?$",
        r"\2 has no choice '\1'. There are: \3",
    ),
    (r"(?<=There are: )(.*)$", lambda found: found[0].replace("'", "")),
)
"""What the parser says, and how it is said here."""


def main(argv: list[str] | None = None) -> int:
    """The entry point: returns the exit status."""
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] in (["--version"], ["-V"]):
        print(f"ppvae {__version__}")
        return 0
    try:
        with _sigterm():
            return parse(argv)() or 0
    except PPVAEError as error:
        print(f"{_ours()}{error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("ppvae: interrupted", file=sys.stderr)
        return 130
    except _Terminated:
        print("ppvae: terminated", file=sys.stderr)
        return 143
    except SystemExit as stop:
        if stop.code:  # in code of the user's own; --help ends with 0
            print(f"ppvae: {_told(stop)}", file=sys.stderr)
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BrokenPipeError:
        return 1
    except Exception as error:
        if os.environ.get("PPVAE_TRACEBACK"):
            raise
        print(f"{_ours()}{_told(error)}", file=sys.stderr)
        return 1


def _ours() -> str:
    """The start of every line that says what went wrong."""
    return f"ppvae: rank {launched.rank()}: " if launched.size() > 1 else "ppvae: "


def _told(error: BaseException) -> str:
    """An error that nobody foresaw, most often in a pair of the user's own: its place and its first line."""
    if isinstance(error, MemoryError) or re.search(r"can't allocate memory|out of memory", str(error)):
        asked = re.search(r"allocate ([\d.]+ \w+)", str(error))
        much = f" ({asked[1]} asked for)" if asked else ""
        return f"out of memory{much}: use fewer particles, or a smaller --batch"
    from ppvae.linter.places import located

    return f"{located(error)} (for the traceback set PPVAE_TRACEBACK=1)"


class _Terminated(BaseException):
    """SIGTERM came: like KeyboardInterrupt, no code takes it for an error."""


@contextlib.contextmanager
def _sigterm() -> Iterator[None]:
    """Inside, SIGTERM unwinds the stack, so that what is open is closed; a thread cannot have that. Nor has
    one of several processes: while it waits for the others it runs no Python, and torchrun ends it so."""
    if launched.size() > 1:
        yield
        return
    try:
        before = signal.signal(signal.SIGTERM, _terminated)
    except ValueError:
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _terminated(*_: Any) -> None:
    raise _Terminated


if __name__ == "__main__":
    sys.exit(main())
