"""Forward passes of every family against plain NumPy, with batch statistics and with running ones."""

import jax
import numpy as np
import pytest
from model_cases import CASES, SHALLOW, quick_jit, randomised
from model_references import forward

from hessflat import models


@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.label)
def test_outputs_and_running_averages_are_those_of_the_reference(case, train):
    model, params, batch_stats, inputs = randomised(case)
    with jax.enable_x64(True):
        outputs, updated = quick_jit(model.apply, static_argnums=3)(params, batch_stats, inputs, train)
    expected, averages = forward(case, params, batch_stats, inputs, train)
    assert outputs.dtype == np.float64
    assert outputs.shape == (len(inputs), case.outputs)
    assert np.abs(expected).max() > 1e-3
    np.testing.assert_allclose(outputs, expected, rtol=1e-9, atol=1e-11)
    assert jax.tree.structure(updated) == jax.tree.structure(averages)
    jax.tree.map(lambda ours, theirs: np.testing.assert_allclose(ours, theirs, rtol=1e-9), updated, averages)


def test_every_family_has_a_reference():
    assert {case.name for case in CASES} == {case.name for case in SHALLOW} == {*models.MODELS} - {*models.TOKEN_MODELS}


@pytest.mark.slow
@pytest.mark.parametrize("case", SHALLOW, ids=lambda case: case.label)
def test_parameters_may_have_a_leading_axis(case):
    model, params, batch_stats, inputs = randomised(case, number=2)
    others = randomised(case, number=2, seed=1)[1:3]
    stacked = jax.tree.map(lambda a, b: np.stack([a, b]).astype(np.float32), (params, batch_stats), others)
    inputs = inputs.astype(np.float32)
    together, _ = quick_jit(jax.vmap(lambda p, s: model.apply(p, s, inputs, True)))(*stacked)
    for index in range(2):
        alone, _ = forward(case, *jax.tree.map(lambda leaf, i=index: leaf[i].astype(np.float64), stacked), inputs, True)
        np.testing.assert_allclose(together[index], alone, rtol=2e-3, atol=2e-3 * np.abs(alone).max())
