"""Settings that every test runs under: strict shapes, and as little compilation as possible repeated."""

import os

os.environ.setdefault("HESSFLAT_CACHE", "0")

import jax

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_num_cpu_devices", 4)
