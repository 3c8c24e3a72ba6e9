import jax
import jax.numpy as jnp
import numpy as np
import pytest
from curvature_cases import criterion, examples, loss, mlp_params, predict
from numpy.testing import assert_allclose

import hessflat.curvature as cv
from hessflat.curvature.operators.blocks import leaf_name
from hessflat.utils.errors import InputError


@pytest.fixture(scope="module")
def problem():
    params, data = mlp_params(5, 4, 3), cv.Batches(examples(23, 5, 3), 10)
    return cv.hessian(loss, params, data), cv.gauss_newton(predict, criterion, params, data)


def places(op, names):
    """Positions in the flat vector of the leaves with these paths."""
    start, chosen = 0, []
    for path, leaf in jax.tree.leaves_with_path(op.params):
        if leaf_name(path) in names:
            chosen.extend(range(start, start + leaf.size))
        start += leaf.size
    return np.array(chosen)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("names", "paths"),
    [
        ("1/*", {"1/0", "1/1"}),
        (["0/0", "1/1"], {"0/0", "1/1"}),
        (lambda path: path.endswith("0"), {"0/0", "1/0"}),
    ],
)
def test_blocks_are_principal_submatrices(problem, names, paths):
    H, G = problem
    for op in (H, H - 0.5 * G + 0.1):
        part, rows = cv.restrict(op, names), places(op, paths)
        expected = np.asarray(op.to_dense())[np.ix_(rows, rows)]
        assert part.size == len(rows)
        assert_allclose(part.to_dense(), expected, atol=1e-6)
        assert_allclose(cv.linearize(part).to_dense(), expected, atol=1e-6)


def test_vectors_are_trees_with_none_in_the_other_places(problem):
    H, _ = problem
    part = cv.restrict(H, "0/0")
    assert [leaf is None for leaf in jax.tree.leaves(part.params, is_leaf=lambda x: x is None)] == [0, 1, 1, 1]
    pairs = cv.eigenpairs(part, jax.random.key(0), 2)
    assert jax.tree.leaves(pairs.vectors)[0].shape == (2, 5, 4)
    assert_allclose(pairs.values[0], cv.eigvalsh(part)[-1], rtol=1e-3)


def test_only_what_is_chosen_is_differentiated(problem):
    H, _ = problem
    part = cv.restrict(H, "1/*")

    def products(op):
        jaxpr = jax.make_jaxpr(op)(jnp.ones(op.size))
        return str(jaxpr).count("dot_general")

    assert products(part) < products(H)


def test_a_known_map_is_restricted_too():
    params = {"a": jnp.zeros(3), "b": jnp.zeros(2)}
    matrix = np.arange(25.0).reshape(5, 5)
    matrix = jax.device_put(np.float32(matrix + matrix.T))

    def times(vector, matrix):
        flat = matrix @ jnp.concatenate([vector["a"], vector["b"]])
        return {"a": flat[:3], "b": flat[3:]}

    op = cv.from_matvec(times, params, matrix)
    assert_allclose(cv.restrict(op, "b").to_dense(), matrix[3:, 3:])
    assert_allclose(cv.restrict(cv.restrict(op, "*"), "a").to_dense(), matrix[:3, :3])


def test_every_layer_by_name(problem):
    H, _ = problem
    layers = cv.blocks(H)
    assert {name: op.size for name, op in layers.items()} == {"0": 24, "1": 15}
    dense = np.asarray(H.to_dense())
    assert_allclose(layers["1"].to_dense(), dense[24:, 24:], atol=1e-6)


def test_what_is_not_there_is_named(problem):
    H, _ = problem
    with pytest.raises(InputError, match=r"no leaf of params matches '2/kernel'; .*0/0"):
        cv.restrict(H, "2/kernel")
    with pytest.raises(InputError, match="no leaf of params was chosen"):
        cv.restrict(H, lambda path: False)
    with pytest.raises(InputError, match="before its linearisation is made"):
        cv.restrict(cv.linearize(H), "0/0")
