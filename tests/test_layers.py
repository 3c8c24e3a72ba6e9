"""Data flows one way: a folder imports only from those before it."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "hessflat"

BASE = {
    *("errors", "rules", "files", "fold", "convolution", "memory", "config", "metric_log", "progress", "run"),
    "arguments",
    "distributed",
    "timetable",
}
LAYERS = ["base", "data", "models", "training", "curvature", "measures", "analysis", "report", "commands"]
# Curvature is a library of its own, and analysis reads files: neither knows how a run was made.
FORBIDDEN = {
    "curvature": {"data", "models", "training", "config", "run", "metric_log"},
    "analysis": {"data", "models", "training", "curvature", "measures"},
}


def layer_of(module: str) -> str:
    if module in BASE:
        return "base"
    return module if module in LAYERS else "commands"


def modules() -> list[Path]:
    return sorted(ROOT.rglob("*.py"))


def imports(path: Path) -> set[str]:
    """First parts below `hessflat` of everything a module imports."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "hessflat":
            parts = node.module.split(".")
            names |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("hessflat.")}
    return names


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_one_way(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    if parts == ("report", "__main__"):
        return  # a command, not part of the report layer
    own = layer_of(parts[0])
    for name in imports(path):
        assert LAYERS.index(layer_of(name)) <= LAYERS.index(own), f"{path} imports hessflat.{name}"
        assert name not in FORBIDDEN.get(own, set()), f"{path} imports hessflat.{name}"


def test_only_stored_recurrences_make_curvature_write():
    assert [path.stem for path in (ROOT / "curvature").glob("*.py") if "files" in imports(path)] == ["saved"]


def test_only_models_know_flax_linen():
    users = [path for path in modules() if "linen" in path.read_text()]
    assert users
    assert {path.relative_to(ROOT).parts[0] for path in users} == {"models"}


def test_importing_the_package_is_light():
    assert imports(ROOT / "__init__.py") == set()
