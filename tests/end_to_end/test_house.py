"""The house: packages import downward only, no modules import each other in a circle, and files stay short."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from importlib.util import resolve_name
from pathlib import Path

import pytest
from conftest import ROOT

# Packages that may import those of the levels before; the root names the public functions, for the commands too.
LEVELS = (
    {"utils"},
    {"metrics"},
    {"tables"},
    {"reading"},
    {"engines"},
    {"scoring"},
    {"runs", "teachers"},
    {"curation", "figures"},
    {"report", "hub"},
    {"rsr_datasets"},
    {"cli"},
    {"__main__"},
)
HEIGHT = {package: height for height, packages in enumerate(LEVELS) for package in packages}


def module_of(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(file): file for file in sorted((ROOT / "rsr_datasets").rglob("*.py"))}


def imports(module: str) -> Iterator[str]:
    """The modules of the package that a module imports, in functions and for annotations too."""
    package = module if MODULES[module].name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in MODULES)
        elif isinstance(node, ast.ImportFrom):
            source = resolve_name("." * node.level + (node.module or ""), package)
            for name in {alias.name for alias in node.names} - {"__version__"}:
                yield from {f"{source}.{name}" if f"{source}.{name}" in MODULES else source} & MODULES.keys()


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else module


@pytest.mark.parametrize("module", MODULES)
def test_imports_run_downward(module: str) -> None:
    others = {other for other in imports(module) if room(other) != room(module)}
    assert {other for other in others if HEIGHT[room(other)] >= HEIGHT[room(module)]} == set()


def test_no_circle() -> None:
    TopologicalSorter({module: {*imports(module)} for module in MODULES}).prepare()


def test_no_long_file() -> None:
    lengths = {module: len(file.read_text(encoding="utf-8").splitlines()) for module, file in MODULES.items()}
    assert {module: lines for module, lines in lengths.items() if lines > 400} == {}
