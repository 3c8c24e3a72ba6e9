"""What `check` costs, and that it fails where it should, for every kind of operator."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from curvature_cases import (
    compiled_by,
    conv_loss,
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
from hessflat.utils.errors import InputError

KEY = jax.random.key(0)


def large(names):
    """The programs that hold a product; the others hold a loss at most."""
    return [name for name in names if name in ("jit(tree_matvec)", "jit(_add_batch)", "jit(_evaluate)")]


def with_state(params, batch, state):
    return criterion(predict(params, batch) * state["scale"], batch)


def masked(params, batch):
    return (batch["m"] * losses(params, batch)).sum() / batch["m"].sum()


PARAMS, DATA = mlp_params(5, 4, 3), examples(23, 5, 3)
MASKED = DATA | {"m": np.float32(np.arange(23) % 3 > 0)}


def half():
    return jax.tree.map(lambda x: x.astype(jnp.bfloat16), PARAMS)


OPERATORS = {
    "hessian": lambda: cv.hessian(loss, PARAMS, DATA),
    "gauss_newton": lambda: cv.gauss_newton(predict, criterion, PARAMS, DATA),
    "residual": lambda: cv.residual(predict, criterion, PARAMS, DATA),
    "fisher": lambda: cv.fisher(losses, PARAMS, DATA),
    "model_fisher": lambda: cv.model_fisher(predict, PARAMS, DATA),
    "batches with a rest": lambda: cv.hessian(loss, PARAMS, cv.Batches(DATA, 7)),
    "weights": lambda: cv.hessian(masked, PARAMS, cv.Batches(MASKED, 5, weights="m")),
    "state": lambda: cv.hessian(with_state, PARAMS, DATA, {"scale": jnp.float32(1.5)}),
    "a difference": lambda: cv.hessian(loss, PARAMS, DATA) - cv.gauss_newton(predict, criterion, PARAMS, DATA),
    "a sum with a map": lambda: 0.5 * cv.hessian(loss, PARAMS, DATA) + cv.from_matvec(lambda v: v, PARAMS) + 0.1,
    "a block": lambda: cv.restrict(cv.hessian(loss, PARAMS, DATA), "0/*"),
    "bfloat16": lambda: cv.hessian(loss, half(), DATA),
    "a map": lambda: operator_of(symmetric([1, 2, 3])),
    "convolutions": lambda: cv.hessian(conv_loss, *conv_problem(6)),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_thirty_products_and_two_programs_are_enough(name):
    op = OPERATORS[name]()
    jax.clear_caches()
    found, names = compiled_by(lambda: cv.check(op, KEY))
    assert found.num_products <= 30
    assert len(large(names)) <= 2, names
    assert len(names) <= 5 + 4 * len(op.terms), names  # one of them makes a tree of a drawn vector
    assert found.asymmetry < found.tolerance


def test_two_programs_in_double_precision():
    with jax.enable_x64(True):
        op = cv.hessian(loss, mlp_params(5, 4, 3, dtype=np.float64), examples(23, 5, 3, dtype=np.float64))
        jax.clear_caches()
        found, names = compiled_by(lambda: cv.check(op, KEY))
    assert found.num_products <= 30
    assert len(large(names)) <= 2
    assert found.tolerance < 1e-12


def test_the_products_that_are_counted_are_all():
    """A callback counts how often the loss is evaluated: not more than twice in a product, whatever is shared."""
    evaluations = []

    def tick(_):
        evaluations.append(1)
        return np.float32(1)

    def counted(params, batch):
        one = jax.pure_callback(tick, jax.ShapeDtypeStruct((), np.float32), batch["y"][0])
        return loss(params, batch) * one.astype(params[0][0].dtype)

    op = cv.hessian(counted, PARAMS, DATA)
    evaluations.clear()
    found = cv.check(op, KEY)
    assert found.finite_difference < 1e-4
    assert found.num_products <= len(evaluations) <= 2 * found.num_products + 3


FACTORS = [1e-6, 1e-2]  # of a fault relative to what is right: far below every tolerance, and above


@pytest.mark.parametrize("factor", FACTORS)
@pytest.mark.parametrize("size", [3, 100_000])
def test_an_asymmetric_map_of_any_size(size, factor):
    """The next entry, which is added to each, is an asymmetric part of that size relative to the map."""
    op = cv.from_matvec(lambda v: v + factor * jnp.roll(v, 1), jnp.zeros(size))
    expect(lambda: cv.check(op, KEY), "must be symmetric", factor)


@pytest.mark.parametrize("factor", FACTORS)
@pytest.mark.parametrize("kind", ["first", "second"])
def test_a_wrong_derivative(kind, factor):
    @jax.custom_jvp
    def tanh(x):
        return jnp.tanh(x)

    @tanh.defjvp
    def _(primals, tangents):
        (x,), (t,) = primals, tangents
        slope = 1 - jnp.tanh(x) ** 2
        wrong = 1 + factor if kind == "first" else 1 + factor * (x - jax.lax.stop_gradient(x))
        return jnp.tanh(x), slope * wrong * t

    op = cv.hessian(lambda w, batch: jnp.mean(tanh(batch @ w) ** 2), jnp.ones(4) / 3, DATA["x"][:, :4])
    expect(lambda: cv.check(op, KEY), "derivatives must be those of the function", factor)


@pytest.mark.parametrize("factor", FACTORS)
@pytest.mark.parametrize("place", ["everywhere", "at the end"])
def test_coupled_examples(place, factor):
    """Outputs of the chosen examples less a part of their mean over the batch, as batch norm has it."""
    chosen = np.float32(np.arange(200) >= (0 if place == "everywhere" else 180))
    data = {"x": np.float32(np.random.default_rng(0).normal(size=(200, 4))), "chosen": chosen}

    def coupled(w, batch):
        outputs = 1 + batch["x"] @ w
        mean = (batch["chosen"] * outputs).sum() / (batch["chosen"].sum() + 1e-6)
        return jnp.mean((outputs - factor * 10 * batch["chosen"] * mean) ** 2)

    found = cv.check(cv.hessian(coupled, jnp.ones(4), data), KEY)
    if factor == FACTORS[0]:
        assert found.batch_weights <= found.tolerance
        assert found.notes == ()
    else:
        assert found.batch_weights is None
        assert any("is not the mean of those of two pieces" in note for note in found.notes)


def test_examples_told_apart_by_their_place():
    def weighted_by_place(w, batch):
        return jnp.mean(jnp.arange(len(batch)) * jnp.tanh(batch @ w))

    found = cv.check(cv.hessian(weighted_by_place, jnp.ones(5), DATA["x"]), KEY)
    assert found.batch_weights is None
    assert len(found.notes) == 1


def test_a_dropout_whose_key_is_not_fixed():
    rng = np.random.default_rng(0)

    def dropout(params, batch):
        seed = jax.pure_callback(
            lambda _: np.uint32(rng.integers(2**31)), jax.ShapeDtypeStruct((), np.uint32), batch["y"][0]
        )
        kept = jax.random.bernoulli(jax.random.key(seed), 0.5, batch["y"].shape)
        return jnp.mean(kept * losses(params, batch))

    with pytest.raises(InputError, match=r"must be deterministic.* fix dropout"):
        cv.check(cv.hessian(dropout, PARAMS, DATA), KEY)


def test_a_second_term_whose_examples_are_coupled_is_found_beside_a_large_one():
    def coupled(params, batch):
        return jnp.mean((predict(params, batch) - predict(params, batch).mean(axis=0)[None]) ** 2)

    found = cv.check(1e6 * cv.hessian(loss, PARAMS, DATA) + cv.hessian(coupled, PARAMS, DATA), KEY)
    assert any("is not the mean" in note for note in found.notes)


def test_terms_that_cancel_are_no_fault():
    """H − G − R is 0 but for rounding, which is that of its terms."""
    op = cv.hessian(loss, PARAMS, DATA) - cv.gauss_newton(predict, criterion, PARAMS, DATA)
    op = op - cv.residual(predict, criterion, PARAMS, DATA)
    assert cv.check(op, KEY).asymmetry < 1e-4


def saturated(margin):
    """A network whose output for the label is larger than the others by `margin` at least, for every example."""
    *hidden, (weights, bias) = mlp_params(5, 40, 3)
    x = np.asarray(examples(200, 5, 3)["x"])
    outputs = np.asarray(predict([*hidden, (weights, bias)], {"x": x}))
    margins = np.sort(outputs)[:, -1] - np.sort(outputs)[:, -2]
    chosen = np.argsort(margins)[-50:]
    scale = np.float32(margin / margins[chosen].min())
    return [*hidden, (scale * weights, scale * bias)], {"x": x[chosen], "y": outputs.argmax(axis=1)[chosen]}


def test_rounding_is_not_taken_for_a_fault_of_the_functions():
    """Products of a saturated network are off in float32, and right in float64."""
    op = cv.hessian(loss, *saturated(12.0))
    with pytest.raises(
        InputError, match=r"float32 must be accurate, but differ by rounding, .* and agree in float64"
    ) as caught:
        cv.check(op, KEY)
    assert "\n" not in str(caught.value)
    with jax.enable_x64(True):
        assert cv.check(op.astype(np.float64), KEY, tolerance=1e-6).asymmetry < 1e-6


def test_a_function_without_a_value_nearby_is_said_so():
    def at_one_alone(w, batch):
        return jnp.mean(jnp.where(jnp.abs(w - 1) < 1e-6, (batch * w) ** 2, jnp.nan))

    found = cv.check(cv.hessian(at_one_alone, jnp.ones(()), DATA["x"][:, 0]), KEY)
    assert found.finite_difference is None
    assert any("not finite near the parameters" in note for note in found.notes)


@pytest.mark.parametrize(("precision", "tolerance"), [("BF16_BF16_F32", None), ("highest", None), ("highest", 0.5)])
def test_no_tolerance_lets_everything_pass(precision, tolerance):
    """Two vectors see little of an asymmetry by chance, so that one of five pairs is asked for."""
    op = cv.from_matvec(lambda v: jnp.roll(v, 1) - jnp.roll(v, -1), jnp.zeros(50))

    def check_with_five_pairs():
        for seed in range(5):
            cv.check(op, jax.random.key(seed), tolerance)

    with jax.default_matmul_precision(precision):
        expect(check_with_five_pairs, "must be symmetric", FACTORS[1])


def expect(call, message, factor):
    """The call passes for the smaller fault, and fails with the message for the larger one."""
    if factor == FACTORS[0]:
        call()
    else:
        with pytest.raises(InputError, match=message):
            call()
