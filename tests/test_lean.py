"""`hessflat.curvature` is a library by itself: light to import, and content with jax, numpy and scipy."""

import ast
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import hessflat.curvature as cv
from hessflat.cli import app

ROOT = Path(__file__).parents[1]
MODULES = """
import json, sys
import jax, numpy, scipy.linalg
before = set(sys.modules)
import hessflat.curvature
print(json.dumps(sorted(set(sys.modules) - before)))
"""
# What they need themselves, and what a virtual environment starts with.
ALLOWED = {"jax", "jaxlib", "ml-dtypes", "numpy", "opt-einsum", "scipy", "hessflat", "pip", "setuptools"}


def run(*command, **options):
    result = subprocess.run(command, capture_output=True, text=True, **options)
    assert result.returncode == 0, f"{' '.join(map(str, command))}\n{result.stdout}\n{result.stderr}"
    return result.stdout


def test_importing_the_library_loads_few_modules():
    modules = json.loads(run(sys.executable, "-c", MODULES, cwd=ROOT))
    assert len(modules) <= 55, modules
    heavy = ("rich", "orbax", "flax", "absl", "ml_collections", "matplotlib", "psutil", "optax", "sklearn")
    assert not [name for name in modules if name.split(".")[0] in heavy]
    assert not [name for name in modules if name.startswith(("scipy.sparse", "scipy.stats", "scipy.optimize"))]


def test_what_is_loaded_later_is_what_type_checkers_see():
    seen = {
        alias.name
        for node in ast.walk(ast.parse((ROOT / "hessflat" / "curvature" / "__init__.py").read_text()))
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for statement in node.body
        for alias in statement.names
    }
    assert len(seen) > 40
    script = "import hessflat.curvature as cv; print(*[name for name in dir(cv) if name not in vars(cv)])"
    assert set(run(sys.executable, "-c", script, cwd=ROOT).split()) == seen
    names = (
        "import hessflat.curvature as cv; print(all(getattr(cv, name) is not None for name in cv.__all__), cv.edges)"
    )
    assert run(sys.executable, "-c", names, cwd=ROOT).startswith("True <module")
    with pytest.raises(AttributeError, match="has no attribute 'spectra'"):
        _ = cv.spectra


def test_help_imports_no_command():
    script = "import sys; from hessflat.cli import app; app.run(['--help']); print(*sys.modules)"
    *_, modules = run(sys.executable, "-c", script, cwd=ROOT).splitlines()
    assert not {f"hessflat.cli.{name}" for name in app.COMMANDS} & set(modules.split())
    assert not {"flax", "optax", "orbax", "matplotlib", "hessflat.curvature"} & set(modules.split())


def test_nothing_under_the_library_reads_proc():
    paths = [*(ROOT / "hessflat" / "curvature").rglob("*.py"), ROOT / "hessflat" / "utils" / "hardware.py"]
    assert len(paths) > 20
    assert not [path for path in paths if "/proc" in path.read_text()]


@pytest.mark.long
def test_the_wheel_runs_the_example_of_the_readme_with_jax_numpy_and_scipy_alone(tmp_path):
    source = tmp_path / "source"
    for name in ("hessflat", "configs", "experiments"):
        shutil.copytree(ROOT / name, source / name)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", tmp_path, source)
    (wheel,) = tmp_path.glob("hessflat-*.whl")
    run(sys.executable, "-m", "venv", tmp_path / "venv")
    python = tmp_path / "venv" / "bin" / "python"
    install = (python, "-m", "pip", "install", "--quiet")
    run(*install, "--constraint", ROOT / "constraints.txt", "jax", "numpy", "scipy")
    run(*install, "--no-deps", wheel)
    installed = json.loads(run(python, "-m", "pip", "list", "--format=json"))
    assert {package["name"].lower().replace("_", "-") for package in installed} <= ALLOWED
    (example,) = re.findall(
        r"^```python\n(import jax\n.*?)^```$", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL
    )
    (tmp_path / "example.py").write_text(example)
    printed = run(python, "example.py", cwd=tmp_path, env={"PATH": ""})
    assert re.fullmatch(r"λ_max 8\.73 ± .*, exactly 8\.73\n", printed.splitlines(True)[0].replace("8.729", "8.73"))
    assert re.fullmatch(r"trace 3\d\.\d+ ± \d\.\d+, exactly 30\.63\n", printed.splitlines(True)[1])
    run(python, "-c", "from importlib.resources import files; assert (files('hessflat') / 'py.typed').is_file()")
