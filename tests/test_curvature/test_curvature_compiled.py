"""What was compiled once is not compiled again."""

import jax
import numpy as np
import pytest
from curvature_cases import compiled_by, examples, loss, mlp_params
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import hessflat.curvature as cv

KEY = jax.random.key(0)
ESTIMATES = {
    "sharpness": lambda H, loop: cv.sharpness(H, KEY, loop=loop),
    "trace": lambda H, loop: cv.trace(H, KEY, 6, "xtrace", loop=loop),
    "lanczos": lambda H, loop: cv.lanczos(H, KEY, 4, 2, loop=loop),
}


@pytest.mark.slow
@pytest.mark.parametrize("loop", ["scan", "python"])
@pytest.mark.parametrize("devices", [1, 2])
def test_a_second_measurement_compiles_nothing_whatever_drives_the_batches(devices, loop):
    data = examples(26 if devices == 1 else 24, 4, 3)
    if devices > 1:
        mesh = jax.make_mesh((devices,), ("examples",), (AxisType.Auto,))
        data = jax.device_put(data, NamedSharding(mesh, PartitionSpec("examples")))
    H = cv.hessian(loss, mlp_params(4, 3), cv.Batches(data, batch_size=6))
    for name, estimate in ESTIMATES.items():
        first, programs = compiled_by(lambda estimate=estimate: estimate(H, loop))
        assert len(programs) < 40, name
        second, programs = compiled_by(lambda estimate=estimate: estimate(H, loop))
        assert programs == [], name
        np.testing.assert_array_equal(_numbers(first), _numbers(second))


def _numbers(result):
    return result.alphas if hasattr(result, "alphas") else result.value
