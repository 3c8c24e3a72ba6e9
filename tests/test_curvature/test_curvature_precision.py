"""The precision of products: an operator's own follow the setting, those of vectors do not."""

import re

import jax
import pytest
from curvature_cases import examples, loss, mlp_params
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import hessflat.curvature as cv
from hessflat.curvature.diagnostics.topology_plan import lowered_block, shapes_of


@pytest.mark.parametrize("devices", [1, 8])
def test_recurrences_are_exact_whatever_the_precision_of_products(devices):
    """In what is lowered for GPUs, products of matrices alone are in the precision that is asked for."""
    params, batch = mlp_params(20, 300, 10), examples(160, 20, 10)
    if devices > 1:
        mesh = jax.make_mesh((devices,), ("examples",), (AxisType.Auto,))
        batch = jax.device_put(batch, NamedSharding(mesh, PartitionSpec("examples")))
    op = shapes_of(cv.hessian(loss, params, batch))
    counts = {}
    for level, size in (("default", "DEFAULT"), ("highest", "HIGHEST")):
        with jax.default_matmul_precision(level):
            text = lowered_block(op, 40, "cuda").as_text()
        dots = re.findall(r"dot_general .*?precision = \[(\w+), (\w+)\]", text)
        counts[level] = sum(pair == (size, size) for pair in dots), len(dots)
    # 3 products with the first layer's kernel or inputs, 8 with the last one's.
    assert counts["default"] == (11, counts["highest"][1])
    assert counts["highest"][0] == counts["highest"][1] > 13
