"""Data flows one way: a folder imports only from those before it, and so does a module of `runs`, `launch`, `cli`."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "hessflat"

ROOMS = (
    "utils",
    "config",
    "curvature",
    "plot",
    "data",
    "models",
    "training",
    "measures",
    "runs",
    "launch",
    "analysis",
    "report",
    "cli",
)
# Curvature is a library of its own, and analysis reads files: neither knows how a run was made. What a number is called
# is part of the measure that gives it, which `analysis/names.py` alone asks.
FORBIDDEN = {
    "curvature": {"config", "data", "models", "training", "measures", "runs"},
    "data": {"curvature"},
    "models": {"curvature", "data"},
    "training": {"curvature"},
    "analysis": {"curvature", "data", "models", "training", "measures", "runs", "launch"},
}
# What a run folder holds is written down once, for who writes it and for who reads it.
SHARED_FORMAT = "runs.run_folder."
ALLOWED = {("analysis/names.py", "measures")}
# From the ground up; a module imports only from lines above its own.
FLOORS = {
    "curvature": (
        {"leaves", "records"},
        {"numerics", "trees"},
        {"vectors"},
        {"host"},
        {"operators"},
        {"jacobian", "exact", "landscape", "directions", "quotients", "preconditioners", "edges"},
        {"stochtrace"},
        {"krylov"},
        {"minibatch", "decomposition", "diagnostics", "perturbations", "sampling", "directional", "subspaces"},
        {"tolerance", "gradient_noise", "tracking"},
    ),
    "runs": (
        {"writers", "foreign"},
        {"run_folder", "schema", "checkpoint_errors"},
        {"jobs", "archive"},
        {"checkpoints", "cost_model"},
        {"mending"},
        {"loop"},
    ),
    "launch": ({"places", "queue", "slurm"}, {"pool"}),
    "cli": (
        {"app"},
        {"checkpoints"},
        {"data", "doctor", "init", "settings", "train", "measure", "plan", "launching"},
        {"sweep"},
        {"experiment"},
        {"archive", "completion", "demo", "reproduce", "report"},
    ),
}


def modules() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py"))


def imports(path: Path) -> set[str]:
    """Dotted names below `hessflat` of everything that a module imports, names of modules and of what is in them."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "hessflat":
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names if alias.name.startswith("hessflat.")}
    return {name.removeprefix("hessflat.") for name in names}


def floor_of(room: str, name: str) -> int | None:
    return next((number for number, floor in enumerate(FLOORS[room]) if name in floor), None)


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_one_way(path):
    own = path.relative_to(PACKAGE).parts[0]
    if own in ("__init__.py", "__main__.py"):
        return
    for name in imports(path):
        room = name.split(".")[0]
        if own == "analysis" and name.startswith(SHARED_FORMAT):
            continue
        assert ROOMS.index(room) <= ROOMS.index(own), f"{path} imports hessflat.{name}"
        if (str(path.relative_to(PACKAGE)), room) not in ALLOWED:
            assert room not in FORBIDDEN.get(own, set()), f"{path} imports hessflat.{name}"


@pytest.mark.parametrize("room", FLOORS)
def test_modules_of_a_room_import_from_lower_floors(room):
    for path in (PACKAGE / room).rglob("*.py"):
        own = path.relative_to(PACKAGE / room).parts[0].removesuffix(".py")
        if own == "__init__":
            continue
        floor = floor_of(room, own)
        assert floor is not None, f"{path} is on no floor of tests/test_layers.py"
        for name in imports(path):
            first, *rest = name.split(".")
            if first == room and rest and rest[0] != own and floor_of(room, rest[0]) is not None:
                assert floor_of(room, rest[0]) < floor, f"{path} imports hessflat.{name}"


@pytest.mark.parametrize("folder", ["hessflat", "benchmarks", "configs", "experiments"])
def test_there_is_no_circle(folder):
    files = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in (ROOT / folder).rglob("*.py")}
    needed = {}
    for name, path in files.items():
        found = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module:
                found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
        needed[name] = found & files.keys() - {name}
    while free := {name for name, others in needed.items() if not others & needed.keys()}:
        needed = {name: others for name, others in needed.items() if name not in free}
    assert not needed, f"import each other: {sorted(needed)}"


def test_the_package_has_at_most_three_flat_files():
    assert {path.name for path in PACKAGE.glob("*.py")} <= {"__init__.py", "__main__.py"}


def test_only_stored_recurrences_make_curvature_write():
    users = [path.stem for path in (PACKAGE / "curvature").rglob("*.py") if "utils.files" in str(imports(path))]
    assert users == ["checkpoint"]


def test_only_models_know_flax_linen():
    users = [path for path in modules() if re.search(r"\blinen\b", path.read_text())]
    assert users
    assert {path.relative_to(PACKAGE).parts[0] for path in users} == {"models"}


def test_importing_the_package_is_light():
    """What it has by name is imported when that is asked for."""
    modules = "import sys, hessflat; print([name for name in sys.modules if name.startswith('hessflat')])"
    done = subprocess.run([sys.executable, "-c", modules], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['hessflat']"
