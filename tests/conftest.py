"""Settings that every test runs under: strict shapes, and as little compilation as possible repeated."""

from pathlib import Path

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_num_cpu_devices", 8)
# What one worker compiled serves the others and the next run of the tests.
jax.config.update("jax_compilation_cache_dir", str(Path(__file__).parents[1] / ".pytest_cache" / "compiled"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


@pytest.fixture(scope="module", autouse=True)
def forget_compiled_programs():
    """Each compiled program takes memory maps, and a process that has compiled thousands of them runs out."""
    yield
    jax.clear_caches()
