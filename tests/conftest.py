"""Settings that every test runs under: strict shapes, and as little compilation as possible."""

import gc
import os
from pathlib import Path

import jax
import jaxlib
import pytest

if os.environ.get("JAX_DISABLE_MOST_OPTIMIZATIONS"):
    # Programs of tests are small: cut into parts that are compiled side by side, they take a sixth longer.
    flags = ["--xla_cpu_parallel_codegen_split_count=1", "--xla_cpu_enable_concurrency_optimized_scheduler=false"]
    if jaxlib.__version__.startswith("0.10."):
        # The older emitters of element-wise loops take half as long to compile. Later versions refuse the flag.
        flags.append("--xla_cpu_use_fusion_emitters=false")
    os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *flags])
# Tracing makes objects by the million that all stay: looking through them for garbage takes a tenth of the time.
gc.set_threshold(100_000, 20, 20)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_num_cpu_devices", 8)
# What one process compiled serves the others, the commands that tests start, and the next run of the tests.
COMPILED = Path(__file__).parents[1] / ".pytest_cache" / "compiled"
os.environ["HESSFLAT_CACHE"] = str(COMPILED)
jax.config.update("jax_compilation_cache_dir", str(COMPILED / f"jaxlib-{jaxlib.__version__}"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)

# Two processes share the files between them: the longest come first, lest one process ends long after the other.
LONGEST = (
    *("test_linearize_primitives.py", "test_killed.py", "test_recipes.py", "test_runs.py", "test_docs.py"),
    *("test_experiments.py", "test_training_trainer.py", "test_models_rank_bound.py", "test_curvature_trace.py"),
    *("test_processes.py", "test_runner.py", "test_curvature_properties.py", "test_curvature_devices.py"),
    "test_curvature_checks.py",
)


def pytest_collection_modifyitems(items):
    """Files in the order in which they are run; tests keep their order inside a file."""
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))


# Each compiled program takes memory maps, of which Linux allows a process 65,530; one file of tests makes 45,000.
MAPS = 8_000


@pytest.fixture(scope="session")
def stored_runs():
    """The folder of every run that the repository keeps, out of its archives."""
    from hessflat.runs.archive import unpacked  # the flags above come before JAX's backend

    with unpacked(Path(__file__).parents[1] / "docs" / "results") as root:
        yield root


@pytest.fixture(scope="module", autouse=True)
def forget_compiled_programs():
    """A file of tests starts with few maps; what an earlier file compiled stays as long as they are few."""
    yield
    maps = Path("/proc/self/maps")
    if not maps.exists() or maps.read_bytes().count(b"\n") > MAPS:
        jax.clear_caches()
