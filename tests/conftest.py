"""Settings that every test runs under: strict shapes, and as little compilation as possible repeated."""

from pathlib import Path

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_num_cpu_devices", 8)
# What one worker compiled serves the others and the next run of the tests.
jax.config.update("jax_compilation_cache_dir", str(Path(__file__).parents[1] / ".pytest_cache" / "compiled"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)

# Two processes share the files between them: the longest come first, lest one process ends long after the other.
LONGEST = (
    *("test_experiments.py", "test_killed.py", "test_runs.py", "test_training_trainer.py", "test_docs.py"),
    *("test_curvature_products.py", "test_curvature_properties.py", "test_curvature_checks.py", "test_runner.py"),
)


def pytest_collection_modifyitems(items):
    """Files in the order in which they are run; tests keep their order inside a file."""
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))


@pytest.fixture(scope="module", autouse=True)
def forget_compiled_programs():
    """Each compiled program takes memory maps, and a process that has compiled thousands of them runs out."""
    yield
    jax.clear_caches()
