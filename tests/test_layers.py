"""Who may import whom, read off the source: the rules that keep the parts apart."""

import ast
import subprocess
import sys
import tomllib
from collections import defaultdict
from pathlib import Path

import pytest

import ppvae

ROOT = Path(__file__).parent.parent
LIBRARY = {
    path
    for path in (ROOT / "ppvae").rglob("*.py")
    if not {"models", "guides"} & set(path.relative_to(ROOT).parts)
}
MODELS, GUIDES = set((ROOT / "models").glob("*.py")), set((ROOT / "guides").glob("*.py"))
OTHERS = {path for folder in ("examples", "benchmarks") for path in (ROOT / folder).rglob("*.py")}

# Imports inside a function that point back up the layers, each with its reason.
LAZY_CYCLES: dict[tuple[str, str], str] = {}


def name_of(path: Path) -> str:
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    if parts[0] in ("models", "guides"):
        parts.insert(0, "ppvae")
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = {name_of(path): path for path in LIBRARY | MODELS | GUIDES}


def is_type_checking(node: ast.If) -> bool:
    return ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def statements(tree: ast.AST, lazy: bool = False):
    """(import statement, whether it stands in a function); what only type checkers read is left out."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node, lazy
        elif isinstance(node, ast.If) and is_type_checking(node):
            yield from (
                found for branch in node.orelse for found in statements(ast.Module([branch], []), lazy)
            )
        else:
            yield from statements(
                node, lazy or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            )


def imports(path: Path) -> set[tuple[str, bool]]:
    """The full names that a file imports, submodules resolved, with whether the import is lazy."""
    found = set()
    package = name_of(path) if path.name == "__init__.py" else name_of(path).rpartition(".")[0]
    for node, lazy in statements(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {(alias.name, lazy) for alias in node.names}
            continue
        base = node.module or ""
        if node.level:
            parts = package.split(".")
            base = ".".join([*parts[: len(parts) - node.level + 1], *([base] if base else [])])
        modules = {f"{base}.{alias.name}" for alias in node.names} & set(SOURCES)
        found |= {(module, lazy) for module in modules}
        if len(modules) < len(
            node.names
        ):  # `from package import submodule` reads nothing off the package itself
            found.add((base, lazy))
    return found


def names(path: Path) -> set[str]:
    return {name for name, _ in imports(path)}


def within(name: str, *packages: str) -> bool:
    return any(name == package or name.startswith(package + ".") for package in packages)


def broken(paths, *forbidden: str) -> list[str]:
    return sorted(f"{name_of(p)} imports {n}" for p in paths for n in names(p) if within(n, *forbidden))


UPPER = tuple(
    f"ppvae.{name}"
    for name in (
        "estimators", "step", "training", "trained", "checkpoint", "data", "plots", "report", "cli",
        "commands", "evaluation", "inference", "linter",
    )
)  # fmt: skip


def test_a_model_imports_neither_guides_nor_what_serves_it():
    assert broken(MODELS, "ppvae.guides", *UPPER) == []


def test_a_guide_imports_nothing_that_trains():
    assert broken(GUIDES, *UPPER) == []


def test_the_library_names_no_model():
    assert broken(LIBRARY, "ppvae.models", "ppvae.guides") == []
    wheel = {name_of(path) for path in MODELS | GUIDES} - {"ppvae.models", "ppvae.guides"}
    by_text = []
    for path in LIBRARY - {ROOT / "ppvae" / "registry.py"}:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in wheel:
                by_text.append(f"{name_of(path)} names {node.value}")
    assert by_text == []


def test_plots_do_not_train():
    plots = {path for path in LIBRARY if within(name_of(path), "ppvae.plots")}
    assert broken(plots, "ppvae.training", "ppvae.step") == []


def test_nothing_imports_examples_or_tests():
    assert broken(LIBRARY | MODELS | GUIDES | OTHERS, "examples", "tests", "conftest") == []


@pytest.mark.parametrize("leaf", ["pair", "errors"])
def test_leaves_import_nothing_of_ours(leaf):
    assert broken({ROOT / "ppvae" / f"{leaf}.py"}, "ppvae") == []


@pytest.mark.parametrize(
    ("lower", "upper"),
    [
        ("terms", ("estimators", "build", "step", "training", "evaluation")),
        ("contraction", ("terms", "estimators", "build", "step", "training")),
        ("estimators", ("step", "training", "trained", "evaluation", "cli", "data")),
        ("build", ("estimators", "step", "training", "data")),
        ("step", ("training", "trained", "cli", "evaluation")),
        ("nets", ("terms", "estimators", "build", "step", "training", "data", "linter")),
        ("distributions", ("terms", "estimators", "build", "step", "training", "data", "linter")),
        ("data", ("terms", "estimators", "build", "step", "training", "evaluation", "pair")),
    ],
)
def test_lower_layers_do_not_know_upper_ones(lower, upper):
    files = {path for path in LIBRARY if within(name_of(path), f"ppvae.{lower}")}
    assert broken(files, *(f"ppvae.{name}" for name in upper)) == []


# Cycles.


def graph(lazy: bool) -> dict[str, set[str]]:
    """Which module of ours imports which; a package's __init__ is left to whoever names the package
    itself."""
    edges = defaultdict(set)
    for name, path in SOURCES.items():
        edges[name] |= {n for n, late in imports(path) if n in SOURCES and n != name and (lazy or not late)}
    return edges


def components(edges: dict[str, set[str]]) -> list[list[str]]:
    """Strongly connected components of more than one module (Tarjan 1972)."""
    index, low, stack, found = {}, {}, [], []

    def visit(node):
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in sorted(edges.get(node, ())):
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            members = [stack.pop()]
            while members[-1] != node:
                members.append(stack.pop())
            if len(members) > 1:
                found.append(sorted(members))

    for node in sorted(edges):
        if node not in index:
            visit(node)
    return found


def test_the_finder_of_cycles_finds_them():
    assert components({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]]
    assert components({"a": {"b"}, "b": set()}) == []


def test_no_cycle_at_module_level():
    assert components(graph(lazy=False)) == []


def test_lazy_cycles_are_the_ones_that_are_listed():
    edges = graph(lazy=True)
    for source, target in LAZY_CYCLES:
        assert target in edges[source], f"no longer there, take it off the list: {source} -> {target}"
        edges[source].discard(target)
    assert components(edges) == []


# Names.


def test_no_file_is_a_drawer_for_odds_and_ends():
    drawers = {"utils", "util", "helpers", "helper", "common", "misc"}
    paths = LIBRARY | MODELS | GUIDES | OTHERS | set((ROOT / "tests").rglob("*.py"))
    assert (
        sorted(str(path) for path in paths if drawers & set(path.relative_to(ROOT).with_suffix("").parts))
        == []
    )


def test_no_exported_name_is_a_submodule():
    submodules = {p.stem for p in (ROOT / "ppvae").glob("*.py")} | {
        p.name for p in (ROOT / "ppvae").iterdir() if p.is_dir()
    }
    assert set(ppvae.__all__) & submodules == set()
    assert set(ppvae._HOMES) == set(ppvae.__all__)


@pytest.mark.parametrize(
    "module", ["ppvae", "ppvae.config", "ppvae.errors", "ppvae.cli", "ppvae.evaluation_config"]
)
def test_light_modules_do_not_load_torch(module):
    if module not in SOURCES:
        pytest.skip(f"{module} is not there yet")
    heavy = ("torch", "pyro", "numpy", "matplotlib")
    code = f"import sys, {module}; print([n for n in {heavy} if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def test_every_package_is_in_the_wheel():
    """What pyproject.toml does not list is in a checkout, and in no installation."""
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    found = {name_of(path) for path in SOURCES.values() if path.name == "__init__.py"}
    assert found <= set(listed), found - set(listed)
