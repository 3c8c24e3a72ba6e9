import jax
import jax.numpy as jnp
import pytest
from curvature_cases import criterion, examples, loss, mlp_params, operator_of, predict, symmetric

import hessflat.curvature as cv
from hessflat.utils import hardware
from hessflat.utils.errors import InputError


@pytest.mark.slow
def test_a_plan_counts_what_a_measurement_takes():
    params, batch = mlp_params(20, 30, 10), examples(400, 20, 10)
    op = cv.hessian(loss, params, cv.Batches(batch, 100))
    plan = cv.plan(op, num_steps=50, num_probes=3)
    assert (plan.size, plan.num_examples, plan.batch_size, plan.num_products) == (940, 400, 100, 150)
    assert plan.basis_bytes == 50 * 940 * 4
    assert cv.plan(op, 50, storage="half").basis_bytes == 50 * 940 * 2
    assert 0 < plan.product_seconds < plan.seconds
    assert plan.seconds >= plan.compile_seconds + 150 * plan.product_seconds
    # At least the hidden layer's activations of a batch, at most a hundred times that.
    assert 100 * 30 * 4 < plan.product_bytes < 100 * 100 * 30 * 4
    assert plan.residual_bytes > 400 * 30 * 4
    assert plan.fits
    assert "altogether" in str(plan)


@pytest.mark.slow
def test_memory_of_a_product_grows_with_its_batch(monkeypatch):
    params, batch = mlp_params(20, 300, 10), examples(4000, 20, 10)
    plans = {
        size: cv.plan(cv.gauss_newton(predict, criterion, params, cv.Batches(batch, size))) for size in (100, 2000)
    }
    assert plans[2000].product_bytes > 5 * plans[100].product_bytes
    room = (plans[100].product_bytes + plans[2000].product_bytes) // 2
    monkeypatch.setattr(hardware, "free_bytes", lambda: int(room / 0.8) + plans[100].basis_bytes)
    tight = cv.plan(cv.gauss_newton(predict, criterion, params, cv.Batches(batch, 2000)))
    assert not tight.fits
    assert 300 < tight.largest_batch < 1700
    assert tight.advice.startswith("take batches of")


@pytest.fixture
def little_memory(monkeypatch):
    monkeypatch.setattr(hardware, "free_bytes", lambda: 100_000)


def test_what_does_not_fit_is_said_before_anything_is_made(little_memory):
    op = cv.from_matvec(lambda v: 2 * v, jnp.zeros(5_000))
    with pytest.raises(
        InputError, match=r'a basis of 100 vectors of 5,000 numbers needs 2 MB and 100 kB are free; .*"half"'
    ):
        cv.lanczos(op, jax.random.key(0), 100)
    with pytest.raises(InputError, match="a basis of 25 vectors"):
        cv.eigenpairs(op, jax.random.key(0))
    with pytest.raises(InputError, match="the matrix of 5000 parameters needs"):
        cv.eigvalsh(op)
    assert cv.lanczos(op, jax.random.key(0), 3, reorthogonalise="none").num_valid[0] == 1
    plan = cv.plan(op, 100)
    assert not plan.fits
    assert 'reorthogonalise="none"' in plan.advice


def test_half_precision_and_the_host_hold_the_same_recurrence():
    op = operator_of(symmetric([0.0] * 30 + [1.0, 2.0, 5.0] + [0.1 * i for i in range(30)]))
    runs = {storage: cv.spectrum(op, jax.random.key(0), 25, storage=storage) for storage in ("device", "host", "half")}
    assert runs["host"].orthogonality[0] < 5e-6
    assert runs["half"].orthogonality[0] < 2e-3
    for storage, tolerance in (("host", 1e-5), ("half", 1e-3)):
        assert abs(runs[storage].largest.value - 5) < 5 * tolerance
        assert abs(runs[storage].second_moment.value / runs["device"].second_moment.value - 1) < tolerance


def test_text_of_bytes():
    assert [hardware.text(n) for n in (12, 1_500, 2_000_000, 14_600_000_000)] == [
        "12 bytes",
        "1.5 kB",
        "2 MB",
        "14.6 GB",
    ]


def test_a_basis_on_the_host_is_judged_by_the_memory_of_the_host(monkeypatch):
    op = cv.hessian(loss, mlp_params(6, 16, 4), examples(40, 6, 4))
    monkeypatch.setattr(hardware, "free_bytes", lambda: 120_000)  # for a product, and not for 180 vectors
    assert not cv.plan(op, 180).fits
    assert cv.plan(op, 180, storage="host").fits
    monkeypatch.setattr(hardware, "free_bytes", lambda: 50_000)
    with pytest.raises(InputError, match="a basis of 180 vectors of 180 numbers needs 130 kB and 50 kB are free"):
        cv.lanczos(op, jax.random.key(0), 180)
    assert cv.lanczos(op, jax.random.key(0), 180, storage="host").alphas.shape == (1, 180)
    monkeypatch.setattr(hardware, "free_host_bytes", lambda: 50_000)
    assert not cv.plan(op, 180, storage="host").fits
    with pytest.raises(InputError, match="needs 130 kB and 50 kB are free"):
        cv.lanczos(op, jax.random.key(0), 180, storage="host")
