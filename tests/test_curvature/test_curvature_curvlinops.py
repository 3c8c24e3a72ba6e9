"""Kronecker factors and diagonals beside curvlinops, on the same weights; skipped where it is not installed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

import hessflat.curvature as cv

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
curvlinops = pytest.importorskip("curvlinops", reason="curvlinops is not installed")


def predict(w, batch):
    x = jax.lax.conv_general_dilated(
        batch["x"], w["a"]["kernel"], (1, 1), "VALID", dimension_numbers=("NCHW", "OIHW", "NCHW")
    )
    return jnp.tanh(x).reshape(len(x), -1) @ w["b"]["kernel"].T + w["b"]["bias"].reshape(1, -1)


def criterion(outputs, batch):
    return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(outputs), batch["y"][:, None], axis=1))


@pytest.fixture(scope="module")
def both():
    """The same network and data twice; in PyTorch the parameters have the order of `jax.tree.leaves`."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(9, 2, 4, 4)).astype(np.float32), rng.integers(0, 3, 9)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(2, 3, 3, bias=False), torch.nn.Tanh(), torch.nn.Flatten(), torch.nn.Linear(12, 3)
    )
    kernel, dense, bias = (p.detach().numpy().copy() for p in network.parameters())
    w = {"a": {"kernel": kernel}, "b": {"bias": bias, "kernel": dense}}
    G = cv.gauss_newton(predict, criterion, w, {"x": x, "y": y.astype(np.int32)})
    params = [network[0].weight, network[3].bias, network[3].weight]
    return G, (network, torch.nn.CrossEntropyLoss(), params, [(torch.from_numpy(x), torch.from_numpy(y))])


def columns(operator, size):
    return (operator @ torch.eye(size)).detach().numpy()


@pytest.mark.slow
# Its EKFAC with "reduce" takes the gradients of means over positions, ours those of examples, which are nearer to G.
@pytest.mark.parametrize(("kind", "sharing"), [("kfac", "expand"), ("kfac", "reduce"), ("ekfac", "expand")])
def test_kronecker_factors_are_those_of_curvlinops(both, kind, sharing):
    G, arguments = both
    peer = {"kfac": curvlinops.KFACLinearOperator, "ekfac": curvlinops.EKFACLinearOperator}[kind]
    options = {"fisher_type": "type-2", "kfac_approx": sharing, "separate_weight_and_bias": False}
    theirs = columns(peer(*arguments, check_deterministic=False, **options), G.size)
    ours = np.asarray(cv.kfac(G, kind, sharing).operator().to_dense())
    assert_allclose(ours, theirs, atol=2e-5 * np.abs(theirs).max())


@pytest.mark.slow
def test_the_diagonal_is_that_of_curvlinops(both):
    G, arguments = both
    theirs = np.diagonal(columns(curvlinops.GGNLinearOperator(*arguments, check_deterministic=False), G.size))
    found = cv.diagonal(G, method="exact").values
    ours = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(found)])
    assert_allclose(ours, theirs, atol=1e-5 * theirs.max())
