"""`python -m hessflat plan`: what measuring takes, before anything is trained."""

import jax
import pytest
import runs

from hessflat.cli import plan
from hessflat.curvature.diagnostics import targets
from hessflat.measures.eval_state import curvature_operator
from hessflat.runs import schema
from hessflat.utils.errors import InputError


def test_a_plan_of_this_machine(capsys):
    plan.main(["--config=g_logistic:smoke", "--config.measure.lanczos_steps=7", "--config.measure.probes=3"])
    text = capsys.readouterr().out
    assert text.count("fits") == 2
    assert "Hessian\nparameters" in text
    assert "Gauss-Newton matrix\nparameters" in text
    assert text.count("products              21") == 2


@pytest.mark.long
@pytest.mark.parametrize("settings", [{}, {"measure.batch_size": 24, "measure.batch_stats_size": 8}])
def test_operators_are_those_that_a_run_measures(tmp_path, monkeypatch, settings):
    """The same shapes, functions and batches: what is compiled for a plan is what a run would compile."""
    chosen = schema.replace(runs.tiny("--config.measure.spectra=end", "--config.train.steps=2"), settings)
    made = []
    monkeypatch.setattr(
        "hessflat.measures.spectra.curvature_operator",
        lambda state, name, mode: made.append(curvature_operator(state, name, mode)) or made[-1],
    )
    runs.run_all([chosen], tmp_path)
    planned = plan.operators(chosen)
    assert len(planned) == len(made) == 2
    for one, other in zip(planned.values(), made, strict=True):
        assert one.terms[0].batches.identity == other.terms[0].batches.identity
        assert [f.function for f in one.terms[0].functions] == [f.function for f in other.terms[0].functions]
        for a, b in zip(jax.tree.leaves(one.terms), jax.tree.leaves(other.terms), strict=True):
            assert (a.shape, a.dtype) == (b.shape, b.dtype)


def test_parameters_are_spread_where_a_run_spreads_them():
    chosen = schema.replace(runs.tiny(), {"fsdp": True})
    for op in plan.operators(chosen, "h100:2").values():
        (term,) = op.terms
        assert term.batches.num_examples % 2 == 0
        kernels = [leaf for leaf in jax.tree.leaves(term.params) if leaf.ndim == 2]
        assert kernels
        for leaf in kernels:
            held = leaf.sharding.shard_shape(leaf.shape)
            assert 2 * held[0] * held[1] == leaf.size
    for op in plan.operators(schema.replace(chosen, {"fsdp": False}), "h100:2").values():
        assert all(leaf.sharding is None for leaf in jax.tree.leaves(op.terms))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--config=… is missing"),
        (["--config=g_logistic:smoke", "--topology=h100"], "topology must be CHIP:NUMBER"),
        (["--config=g_logistic:smoke", "--topologie=h100:8"], "topolog"),
    ],
)
def test_what_cannot_be_planned_is_one_line(arguments, message):
    with pytest.raises(InputError, match=message) as caught:
        plan.main(arguments)
    assert "\n" not in str(caught.value)


def test_what_is_missing_to_compile_for_a_chip_is_one_line(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for chip in targets.CHIPS.values():
        line = targets.why_not_installed(chip)
        assert "pip install --no-deps" in line
        assert "\n" not in line
    assert jax.__version__ in targets.why_not_installed(targets.CHIPS["h100"])
    assert "libtpu==" in targets.why_not_installed(targets.CHIPS["v5e"])
