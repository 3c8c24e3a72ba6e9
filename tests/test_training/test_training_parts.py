"""Schedules, optimisers and losses against their formulas written out in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hessflat.training.augmentation import PADDING, augment, mixup
from hessflat.training.optimisation import LOSSES, OPTIMISERS, SCHEDULES, WEIGHT_DECAY_MASKS, make_targets
from hessflat.training.step import sam_perturb
from hessflat.utils.errors import InputError


def test_linear_decay_is_the_papers_equation():
    factor = SCHEDULES["linear_decay"](50, 0, final_ratio=0.01)

    def paper(t):
        if t / 50 <= 0.5:
            return 1.0
        return 1 - 0.99 * (t / 50 - 0.5) / 0.4 if t / 50 <= 0.9 else 0.01

    epochs = np.arange(51)
    np.testing.assert_allclose(factor(jnp.array(epochs)), [paper(t) for t in epochs], rtol=1e-5, atol=1e-6)
    within = SCHEDULES["linear_decay"](1000, 0, final_ratio=0.01, over=50)
    np.testing.assert_allclose(within(jnp.arange(1000)), [paper(t) for t in range(1000)], rtol=1e-5, atol=1e-6)


def test_iterate_averaging_is_the_papers_equation():
    factor = SCHEDULES["iterate_averaging"](300, 161, final_ratio=0.5)

    def paper(t):
        if t / 161 <= 0.5:
            return 1.0
        return 1 - 0.5 * (t / 161 - 0.5) / 0.4 if t / 161 <= 0.9 else 0.5

    epochs = np.arange(301)
    np.testing.assert_allclose(factor(jnp.array(epochs)), [paper(t) for t in epochs], rtol=1e-5)
    with pytest.raises(InputError, match=r"needs config.train.average_from"):
        SCHEDULES["iterate_averaging"](300, 0)


def test_step_decay_and_constant():
    epochs = jnp.array([0, 49, 50, 79, 80, 89])
    np.testing.assert_allclose(SCHEDULES["step_decay"](90, 0)(epochs), [1, 1, 0.1, 0.1, 0.01, 0.01], rtol=1e-6)
    np.testing.assert_array_equal(SCHEDULES["constant"](90, 0)(epochs), np.ones(6))


def sgd_by_hand(w, gradient, lr, l2, steps):
    z = np.zeros_like(w)
    for step in range(steps):
        z = 0.9 * z + gradient(w) + l2 * w
        w = w - lr(step) * z
    return w


def adam_by_hand(w, gradient, lr, l2, steps, decoupled):
    m, v = np.zeros_like(w), np.zeros_like(w)
    for step in range(steps):
        g = gradient(w) + (0 if decoupled else l2 * w)
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        update = (m / (1 - 0.9 ** (step + 1))) / (np.sqrt(v / (1 - 0.999 ** (step + 1))) + 1e-8)
        w = w - lr(step) * (update + (l2 * w if decoupled else 0))
    return w


@pytest.mark.parametrize(
    ("name", "by_hand"),
    [
        ("sgd", sgd_by_hand),
        ("adam", lambda *a: adam_by_hand(*a, decoupled=False)),
        ("adamw", lambda *a: adam_by_hand(*a, decoupled=True)),
    ],
)
def test_optimiser_takes_the_steps_of_its_definition(name, by_hand):
    w = np.random.default_rng(0).normal(size=5)
    rates = [0.1, 0.05, 0.2, 0.01, 0.1, 0.1]
    with jax.enable_x64(True):
        optimiser = OPTIMISERS[name](lambda step: jnp.array(rates)[step], 0.03, WEIGHT_DECAY_MASKS["all"])
        params = jnp.array(w)
        state = optimiser.init(params)
        for _ in rates:
            updates, state = optimiser.update(jnp.cos(params), state, params)
            params = params + updates
        np.testing.assert_allclose(params, by_hand(w, np.cos, lambda s: rates[s], 0.03, len(rates)), rtol=1e-10)


def test_losses_and_targets():
    outputs = np.array([[2.0, -1.0, 0.5], [0.0, 0.0, 3.0]])
    labels = np.array([0, 1])
    log_p = outputs - np.log(np.exp(outputs).sum(axis=1, keepdims=True))
    wanted = {"cross_entropy": lambda t: -(t * log_p).sum(1), "squared_error": lambda t: ((outputs - t) ** 2).mean(1),
              "exponential": lambda t: np.exp(-t * outputs).mean(1)}  # fmt: skip
    assert set(wanted) == set(LOSSES)
    for name, by_hand in wanted.items():
        for smoothing in (0.0, 0.3):
            targets = (1 - smoothing) * np.eye(3)[labels] + smoothing / 3
            found = LOSSES[name].function(jax.device_put(outputs), make_targets(jax.device_put(labels), 3, smoothing))
            np.testing.assert_allclose(found, by_hand(targets), rtol=1e-6)
    real = jnp.array([[0.5], [2.0]])
    assert make_targets(real, 1) is real


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_losses_are_what_their_entries_say(name):
    """Of logits, and of nothing else, a number added to all is no change; and no outputs go below the least."""
    loss = LOSSES[name]
    assert loss.classes or loss.real_targets
    random = np.random.default_rng(0)
    outputs = jax.device_put(random.normal(size=(50, 3)))
    targets = make_targets(jax.device_put(random.integers(0, 3, 50)), 3, 0.3)
    changed = loss.function(outputs + 1.5, targets) - loss.function(outputs, targets)
    assert bool(jnp.allclose(changed, 0, atol=1e-5)) is loss.logits
    least = jnp.zeros(50) if loss.least is None else loss.least(targets)
    assert least.shape == (50,)
    assert (loss.function(outputs, targets) > least).all()
    closest = {"cross_entropy": jnp.log(targets), "squared_error": targets, "exponential": 100 * jnp.sign(targets)}
    np.testing.assert_allclose(loss.function(closest[name], targets), least, atol=1e-2)


@pytest.mark.parametrize("name", sorted(OPTIMISERS))
def test_decay_can_leave_out_biases_and_normalisation(name):
    """With a zero gradient, and no momentum from before, only what decays moves."""
    params = {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3), "scale": jnp.ones(3)}
    for mask, moving in (("all", {"kernel", "bias", "scale"}), ("kernels", {"kernel"})):
        optimiser = OPTIMISERS[name](lambda step: 0.1, 0.5, WEIGHT_DECAY_MASKS[mask])
        updates, _ = optimiser.update(jax.tree.map(jnp.zeros_like, params), optimiser.init(params), params)
        assert {key for key, update in updates.items() if np.any(update)} == moving


@pytest.mark.parametrize("name", sorted(OPTIMISERS))
def test_zero_gradients_change_nothing(name):
    params = {"kernel": jnp.ones((2, 3))}
    optimiser = OPTIMISERS[name](lambda step: 0.1, 0.0, WEIGHT_DECAY_MASKS["all"])
    updates, _ = optimiser.update(jax.tree.map(jnp.zeros_like, params), optimiser.init(params), params)
    np.testing.assert_array_equal(updates["kernel"], np.zeros((2, 3)))


def test_sam_goes_uphill_by_its_radius():
    rng = np.random.default_rng(0)
    w, g = ({"a": rng.normal(size=(2, 3)), "b": rng.normal(size=4)} for _ in range(2))
    norm = np.sqrt(sum((leaf**2).sum() for leaf in g.values()))
    with jax.enable_x64(True):
        moved = sam_perturb(*(jax.tree.map(jnp.asarray, tree) for tree in (w, g)), 0.3)
        for name in w:
            np.testing.assert_allclose(moved[name], w[name] + 0.3 * g[name] / norm, rtol=1e-12)
    single = jax.tree.map(jnp.float32, w)
    jax.tree.map(np.testing.assert_array_equal, sam_perturb(single, jax.tree.map(jnp.float32, g), 0.0), single)
    zeros = jax.tree.map(jnp.zeros_like, single)
    jax.tree.map(np.testing.assert_array_equal, sam_perturb(single, zeros, 0.3), single)


@pytest.mark.slow
def test_mixup_mixes_each_example_with_another_by_its_own_weight():
    rng = np.random.default_rng(0)
    inputs, targets = rng.normal(size=(2000, 3, 2)).astype(np.float32), np.eye(2000, dtype=np.float32)
    mixed, labels = mixup(jax.random.key(0), jax.device_put(inputs), jax.device_put(targets), 1.0)
    weights = np.asarray(labels)
    np.testing.assert_allclose(weights.sum(1), 1, rtol=1e-5)
    np.testing.assert_allclose(mixed, np.einsum("nm,mij->nij", weights, inputs), rtol=1e-4, atol=1e-4)
    own = np.diag(weights)
    # Beta(1, 1) is uniform: mean 1/2 and variance 1/12.
    assert abs(own.mean() - 0.5) < 0.03
    assert abs(own.var() - 1 / 12) < 0.01
    assert len(np.unique(own)) > 1900
    for beta, low, high in ((0.1, 0.15, 0.25), (20.0, 0.0, 0.02)):
        own = np.diag(mixup(jax.random.key(1), jax.device_put(inputs), jax.device_put(targets), beta)[1])
        assert low < own.var() < high  # 1 / (4 (2 β + 1)) = 0.208 and 0.006
    same, unmixed = mixup(jax.random.key(0), jax.device_put(inputs), jax.device_put(targets), 0.0)
    np.testing.assert_array_equal(same, inputs)
    np.testing.assert_array_equal(unmixed, targets)


def test_augmentation_shifts_and_flips_each_image_by_itself():
    """Every result is one of the 2 · 9 · 9 views of its own image, all of which occur; and p is their share."""
    rng = np.random.default_rng(0)
    image = rng.normal(size=(6, 5, 2)).astype(np.float32)
    images = np.repeat(image[None], 4000, axis=0)
    padded = np.pad(image, ((PADDING, PADDING), (PADDING, PADDING), (0, 0)))
    views = {
        padded[i : i + 6, j : j + 5][:, :: -1 if flip else 1].tobytes()
        for i in range(9)
        for j in range(9)
        for flip in (False, True)
    }
    assert len(views) > 150  # crops that hold padding alone are alike
    found = [view.tobytes() for view in np.asarray(augment(jax.random.key(0), jax.device_put(images), 1.0))]
    assert set(found) == views
    unchanged = np.mean(
        [np.array_equal(view, image) for view in augment(jax.random.key(1), jax.device_put(images), 0.3)]
    )
    assert abs(unchanged - (0.7 + 0.3 / 162)) < 0.03
    np.testing.assert_array_equal(augment(jax.random.key(0), jax.device_put(images), 0.0), images)
