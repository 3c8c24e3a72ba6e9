import doctest

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from curvature_cases import (
    conv_loss,
    conv_predict,
    conv_problem,
    criterion,
    examples,
    loss,
    losses,
    mlp_params,
    operator_of,
    predict,
    symmetric,
)

import hessflat.curvature as cv
from hessflat.utils import compat
from hessflat.utils.errors import InputError


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("batch_size", [None, 4])
def test_curvature_matrices_pass(batch_size, seed):
    params, batches = mlp_params(5, 4, 3, seed=seed), cv.Batches(examples(11, 5, 3), batch_size)
    op = cv.hessian(loss, params, batches) - 0.3 * cv.gauss_newton(predict, criterion, params, batches)
    found = cv.check(op + cv.residual(predict, criterion, params, batches) + 0.1, jax.random.key(seed))
    assert found.repeat == 0
    assert found.asymmetry < found.tolerance
    assert found.finite_difference < 1e-6
    assert found.batch_weights < found.tolerance
    assert (found.notes, found.num_products, found.precision) == ((), 16, "highest")
    assert not compat.setting("jax_enable_x64")


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_fisher_matrix_passes_in_both_types(dtype):
    with jax.enable_x64(dtype is np.float64):
        op = cv.fisher(losses, mlp_params(5, 4, 3, dtype=dtype), examples(11, 5, 3, dtype=dtype))
        found = cv.check(op, jax.random.key(0))
    assert found.finite_difference < 1e-6
    assert found.tolerance < (1e-3 if dtype is np.float32 else 1e-12)


def relu_loss(params, batch):
    ((w1, b1), (w2, b2)) = params
    return criterion(jax.nn.relu(batch["x"] @ w1 + b1[None]) @ w2 + b2[None], batch)


@pytest.mark.slow
def test_kinks_do_not_matter():
    op = cv.hessian(relu_loss, mlp_params(20, 200, 3), examples(600, 20, 3))
    assert cv.check(op, jax.random.key(0)).finite_difference < 1e-4


@pytest.mark.slow
def test_convolutions_pass():
    params, batch = conv_problem(5)
    for op in (cv.hessian(conv_loss, params, batch), cv.gauss_newton(conv_predict, criterion, params, batch)):
        assert cv.check(op, jax.random.key(0)).finite_difference < 1e-6


@jax.custom_jvp
def wrong_square(x):
    return x**2


@wrong_square.defjvp
def _(primals, tangents):
    (x,), (t,) = primals, tangents
    return x**2, 3 * x * t


def wrong_mean_square(params, batch):
    return jnp.mean(wrong_square(batch["x"] @ params["w"] - batch["y"]))


def wrong_outputs(params, batch):
    return wrong_square(batch["x"] @ params["w"])


def wrong_criterion(outputs, batch):
    return jnp.mean(wrong_square(outputs))


def mean_square(outputs, batch):
    return jnp.mean(outputs**2)


def linear(params, batch):
    return batch["x"] @ params["w"]


def sum_of_squares(params, batch):
    return jnp.sum((linear(params, batch) - batch["y"]) ** 2)


def sum_criterion(outputs, batch):
    return jnp.sum(outputs**2)


def normalised(params, batch):
    outputs = linear(params, batch)
    return jnp.mean((outputs - outputs.mean()) ** 2)


def without_gradient(params, batch):
    outputs = linear(params, batch)
    return jnp.mean(outputs * jax.lax.stop_gradient(outputs) ** 2 + outputs**2)


def regression(number=30):
    rng = np.random.default_rng(0)
    data = {"x": rng.normal(size=(number, 4)), "y": rng.normal(size=number)}
    return {"w": jax.device_put(np.float32(rng.normal(size=4)))}, jax.tree.map(
        lambda x: jax.device_put(np.float32(x)), data
    )


@pytest.mark.parametrize("batch_size", [None, 7])
@pytest.mark.parametrize(
    ("functions", "message"),
    [
        ((wrong_mean_square,), "the gradient and central differences .* custom_jvp"),
        ((wrong_outputs, mean_square), "the product and central differences"),
        ((linear, wrong_criterion), "the criterion's gradient and central differences"),
        ((without_gradient,), "central differences .* stop_gradient"),
    ],
)
def test_functions_that_are_not_what_they_should_be_are_refused(functions, message, batch_size):
    params, data = regression()
    data = cv.Batches(data, batch_size)
    op = make(functions, params, data)
    with pytest.raises(InputError, match=message) as caught:
        cv.check(op, jax.random.key(0))
    assert "\n" not in str(caught.value)


def make(functions, params, data):
    return cv.hessian(*functions, params, data) if len(functions) == 1 else cv.gauss_newton(*functions, params, data)


@pytest.mark.parametrize(
    ("functions", "refusal", "note"),
    [
        ((sum_of_squares,), "loss of a batch must be the mean .* it is their sum", "loss of all data is the sum"),
        (
            (linear, sum_criterion),
            "loss of a batch must be the mean .* is their sum",
            "criterion of all data is the sum",
        ),
        ((normalised,), "loss of a batch must be the mean .* statistics_batch=", "in batches it would need"),
    ],
)
def test_what_is_no_mean_over_examples_is_noted_for_all_data_and_refused_in_batches(functions, refusal, note):
    params, data = regression()
    found = cv.check(make(functions, params, data), jax.random.key(0))
    assert found.batch_weights is None
    assert any(note in one for one in found.notes)
    with pytest.raises(InputError, match=refusal) as caught:
        make(functions, params, cv.Batches(data, 7))
    assert "\n" not in str(caught.value)


RANDOM = np.random.default_rng(0)


def with_kink(kink):
    """A loss with ties at the parameters: rows of zeros, and biases that are zero."""
    params = {"w": RANDOM.normal(size=(4, 5)), "b": np.zeros(5), "out": RANDOM.normal(size=5)}
    x = RANDOM.normal(size=(30, 4))
    x[:6] = 0

    def loss(params, batch):
        return jnp.mean((kink(batch["x"] @ params["w"] + params["b"][None]) @ params["out"] - batch["y"]) ** 2)

    return loss, jax.tree.map(np.float32, params), {"x": np.float32(x), "y": np.float32(RANDOM.normal(size=30))}


@pytest.mark.parametrize("kink", [jax.nn.relu, lambda z: jnp.maximum(z, 0.0), jnp.abs])
def test_kinks_at_the_parameters_are_no_fault(kink):
    found = cv.check(cv.hessian(*with_kink(kink)), jax.random.key(0))
    assert found.finite_difference < 1e-4


def test_an_l1_norm_of_weights_that_are_zero_is_no_fault():
    params, data = regression()

    def lasso(params, batch):
        return squared_error(params, batch) + 0.1 * jnp.abs(params["w"]).sum()

    found = cv.check(cv.hessian(lasso, jax.tree.map(jnp.zeros_like, params), data), jax.random.key(0))
    assert found.finite_difference < 1e-4


def test_derivatives_that_are_meant_can_be_left_out():
    params, data = regression()
    op = cv.hessian(without_gradient, params, data)
    with pytest.raises(InputError, match="derivatives=False if they are meant"):
        cv.check(op, jax.random.key(0))
    found = cv.check(op, jax.random.key(0), derivatives=False)
    assert found.finite_difference is None
    assert "derivatives were not compared with differences" in found.notes


def test_dropout_is_named_as_randomness():
    params, data = regression()

    def dropped(params, batch, key):
        kept = jax.random.bernoulli(key, 0.5, batch["y"].shape)
        return jnp.mean(kept * (linear(params, batch) - batch["y"]) ** 2)

    found = cv.check(cv.hessian(dropped, params, data, jax.random.key(1)), jax.random.key(0))
    assert any("draws random numbers, as dropout does" in note for note in found.notes)


def test_narrow_parameters_are_checked_as_sharply_as_single_ones():
    params, data = regression()
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
    assert cv.check(cv.hessian(squared_error, half, data), jax.random.key(0)).tolerance < 1e-3


def squared_error(params, batch):
    return jnp.mean((linear(params, batch) - batch["y"]) ** 2)


def test_examples_that_share_statistics_by_name_pass():
    params, data = regression()
    found = cv.check(cv.hessian(normalised, params, cv.Batches(data, 10, statistics_batch=5)), jax.random.key(0))
    assert found.batch_weights < found.tolerance
    found = cv.check(cv.hessian(normalised, params, cv.Batches(data, statistics_batch=30)), jax.random.key(0))
    assert found.batch_weights is None
    assert "cannot be taken apart" in found.notes[0]


def test_a_function_that_rounds_on_the_way_cannot_be_differenced():
    def rounded(params, batch):
        return jnp.mean(jnp.tanh((batch["x"] @ params["w"]).astype(np.float32)).astype(params["w"].dtype))

    found = cv.check(cv.hessian(rounded, *regression()), jax.random.key(0))
    assert found.finite_difference is None
    assert "rounds to less than float64" in found.notes[0]
    assert found.batch_weights < found.tolerance


def test_rounded_data_do_not_matter():
    def cast(params, batch):
        return jnp.mean(jnp.tanh((batch["x"] / 3).astype(np.float32).astype(params["w"].dtype) @ params["w"]))

    assert cv.check(cv.hessian(cast, *regression()), jax.random.key(0)).finite_difference < 1e-6


def test_a_function_that_does_not_run_in_float64_is_said_so():
    def only_float32(params, batch):
        assert params["w"].dtype == np.float32, "float32 only\nplease"
        return jnp.mean(jnp.tanh(linear(params, batch)))

    found = cv.check(cv.hessian(only_float32, *regression()), jax.random.key(0))
    assert found.finite_difference is None
    assert found.notes == ("a function does not run in float64: AssertionError: float32 only",)


def test_a_dropout_that_draws_anew_is_refused():
    rng = np.random.default_rng(0)

    def dropout(params, batch):
        shape = jax.ShapeDtypeStruct((30,), np.float32)
        mask = jax.pure_callback(lambda: rng.binomial(1, 0.5, size=30).astype(np.float32), shape)
        return jnp.mean(mask * jnp.tanh(linear(params, batch)) ** 2)

    with pytest.raises(InputError, match=r"must be deterministic.* fix dropout"):
        cv.check(cv.hessian(dropout, *regression()), jax.random.key(0))


def test_what_cannot_be_taken_apart_is_said_so():
    params, _ = regression()
    known = cv.from_matvec(lambda v: v, params)
    found = cv.check(known, jax.random.key(0))
    assert (found.finite_difference, found.batch_weights, found.num_products) == (None, None, 3)
    assert found.notes == ("a known map is neither differentiated nor taken apart",)
    H = cv.hessian(relu_loss, mlp_params(5, 4, 3), examples(11, 5, 3))
    assert cv.check(H + cv.from_matvec(lambda v: v, H.params), jax.random.key(0)).finite_difference < 1e-6
    assert "linearisation is made" in cv.check(cv.linearize(H), jax.random.key(0)).notes[0]


def test_a_map_that_is_not_symmetric_is_refused():
    matrix = symmetric([1, 2, 3]) + np.triu(np.full((3, 3), 0.1), 1)
    with pytest.raises(InputError, match="must be symmetric"):
        cv.check(operator_of(matrix), jax.random.key(0))


def test_a_map_that_changes_is_refused():
    rng = np.random.default_rng(0)

    def noisy(vector):
        noise = jax.ShapeDtypeStruct(vector.shape, vector.dtype)
        return vector + jax.pure_callback(lambda: rng.normal(size=3).astype(np.float32), noise)

    with pytest.raises(InputError, match="must be deterministic"):
        cv.check(cv.from_matvec(noisy, jnp.zeros(3)), jax.random.key(0))


def test_values_that_are_not_finite_are_refused():
    with pytest.raises(InputError, match="not finite"):
        cv.check(operator_of(np.diag([1.0, np.nan])), jax.random.key(0))


def test_zero_passes():
    assert cv.check(operator_of(np.zeros((3, 3))), jax.random.key(0)).asymmetry == 0


def test_the_example_in_the_documentation_runs():
    assert doctest.testmod(cv).failed == 0
    assert doctest.testmod(cv).attempted > 5


def test_every_public_name_is_there():
    assert all(hasattr(cv, name) for name in cv.__all__)


def pairs_apart(params, batch):
    """Squares of outputs, and of the differences of neighbours of one identity."""
    outputs = linear(params, batch)
    same = batch["id"][:, None] == batch["id"][None, :]
    apart = (outputs[:, None] - outputs[None, :]) ** 2
    return jnp.mean(outputs**2) + jnp.sum(jnp.where(same, apart, 0)) / len(outputs)


def test_coupling_beyond_any_prefix_is_seen():
    """Ten pairs after 580 single examples; halves of batches hold whole pairs, so that each batch looks like a mean."""
    params, data = regression(600)
    data |= {"id": np.concatenate([np.arange(580), np.repeat(np.arange(1000, 1010), 2)])}
    found = cv.check(cv.hessian(pairs_apart, params, data), jax.random.key(0))
    assert any("is not the mean of those of two pieces" in note for note in found.notes)
    with pytest.raises(InputError, match="examples must not depend on one another: the product over 600 examples"):
        cv.check(cv.hessian(pairs_apart, params, cv.Batches(data, 40)), jax.random.key(0))


@pytest.mark.parametrize("tolerance", [float("nan"), -1.0, 0.0, 1.0, float("inf")])
def test_a_tolerance_that_means_nothing_is_refused(tolerance):
    params, data = regression()
    with pytest.raises(InputError, match="tolerance must be a number between 0 and 1, or None, got"):
        cv.check(cv.hessian(sum_of_squares, params, data), jax.random.key(0), tolerance)
