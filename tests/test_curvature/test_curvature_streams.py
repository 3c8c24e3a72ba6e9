"""Data batch by batch give the numbers of the same data as arrays, and what changes between passes is named."""

import threading
import traceback
from collections import UserDict, deque

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from curvature_cases import criterion, losses_of
from jax.flatten_util import ravel_pytree

import hessflat.curvature as cv
from hessflat.curvature.operators import operator
from hessflat.utils.errors import InputError

N, D, C, SIZE = 26, 3, 3, 8
KEY = jax.random.key(0)
RANDOM = np.random.default_rng(0)
X, Y = RANDOM.normal(size=(N, D)).astype(np.float32), RANDOM.integers(C, size=N)
MASK = (RANDOM.random(N) < 0.6).astype(np.float32)
MASK[SIZE : 2 * SIZE] = 0  # a whole batch that does not count
PARAMS = {"in": RANDOM.normal(size=(D, 4)).astype(np.float32), "out": RANDOM.normal(size=(4, C)).astype(np.float32)}
ARRAYS = {"x": X, "y": Y, "m": MASK}


def predict(params, batch):
    return jnp.tanh(batch["x"] @ params["in"]) @ params["out"]


def loss(params, batch):
    return criterion(predict(params, batch), batch)


def losses(params, batch):
    return losses_of(predict(params, batch), batch)


def masked(params, batch):
    return jnp.sum(batch["m"] * losses(params, batch)) / jnp.sum(batch["m"])


def cut(tree, size=SIZE, number=N):
    """A list of batches, the last one short."""
    return [jax.tree.map(lambda x, i=i: x[i : i + size], tree) for i in range(0, number, size)]


def exact(of=loss, arrays=ARRAYS, params=PARAMS):
    """The Hessian [P, P] in float64 by jax.hessian, over all the data at once."""
    with jax.enable_x64(True):
        wide = lambda x: jnp.asarray(x, jnp.float64 if np.asarray(x).dtype == np.float32 else None)  # noqa: E731
        flat, unravel = ravel_pytree(jax.tree.map(wide, params))
        arrays = jax.tree.map(wide, arrays)
        return np.asarray(jax.hessian(lambda p: of(unravel(p), arrays))(flat))


def threads():
    return [thread for thread in threading.enumerate() if "stream" in thread.name]


@pytest.fixture(autouse=True)
def _no_thread_outlives_its_pass():
    yield
    assert not threads()


class Tensor:
    """An array of another library."""

    def __init__(self, array):
        self.array = array

    def __array__(self, dtype=None, copy=None):
        return np.array(self.array, dtype)


class Broken:
    """A tensor that lies elsewhere."""

    def __array__(self, dtype=None, copy=None):
        raise TypeError("can't convert device type tensor to numpy")


class Loader:
    """A data loader: it knows its length, is read anew by every `iter`, and counts its batches."""

    def __init__(self, batches):
        self.batches, self.read = batches, 0

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        for batch in self.batches:
            self.read += 1
            yield batch


def as_tuple(function):
    return lambda params, batch: function(params, dict(zip("xym", batch, strict=True)))


def moment(params, batch):
    """Of one bare array [n, D]."""
    return jnp.mean(jnp.tanh(batch @ params["in"] @ params["out"]) ** 2)


@pytest.mark.parametrize(
    ("of", "data", "arrays"),
    [
        (loss, cut(ARRAYS), ARRAYS),
        (loss, tuple(cut(ARRAYS, 13)), ARRAYS),
        (loss, Loader(cut(ARRAYS)), ARRAYS),
        (loss, lambda: iter(cut(ARRAYS)), ARRAYS),
        (loss, lambda: (batch for batch in cut(ARRAYS)), ARRAYS),
        (loss, [jax.tree.map(Tensor, batch) for batch in cut(ARRAYS)], ARRAYS),
        (loss, [jax.tree.map(jnp.asarray, batch) for batch in cut(ARRAYS)], ARRAYS),
        (as_tuple(loss), cut((X, Y, MASK)), (X, Y, MASK)),
        (moment, cut(X), X),
        (loss, [ARRAYS], ARRAYS),
        (loss, [UserDict(batch) for batch in cut(ARRAYS)], ARRAYS),
    ],
    ids=[
        "dicts",
        "even",
        "loader",
        "function",
        "generators",
        "tensors",
        "jax",
        "tuples",
        "arrays",
        "one batch",
        "mappings",
    ],
)
def test_the_matrix_is_that_of_all_data(of, data, arrays):
    H = cv.hessian(of, PARAMS, cv.Stream(data))
    np.testing.assert_allclose(H.to_dense(), exact(of, arrays), atol=1e-6)
    v = np.random.default_rng(1).normal(size=H.size).astype(np.float32)
    np.testing.assert_allclose(H(v), exact(of, arrays) @ v, atol=1e-5)


@pytest.fixture(scope="module")
def both():
    """The Hessian over a stream, and over the same arrays."""
    return cv.hessian(loss, PARAMS, cv.Stream(cut(ARRAYS))), cv.hessian(loss, PARAMS, ARRAYS)


@pytest.mark.parametrize(
    "measured",
    [
        lambda H: H.to_dense(),
        lambda H: ravel_pytree(H(jax.tree.map(jnp.ones_like, H.params)))[0],
        lambda H: cv.eigvalsh(H),
        lambda H: cv.eigvalsh(H, float64=True),
        lambda H: cv.lanczos(H, KEY, 6, 2).alphas,
        lambda H: cv.lanczos(H, KEY, 6, storage="host").alphas,
        lambda H: cv.lanczos(H, KEY, 6, reorthogonalise="selective").betas,
        lambda H: cv.spectrum(H, KEY, 30).largest.value,
        lambda H: cv.eigenpairs(H, KEY, 2, rtol=1e-5).values,
        lambda H: cv.eigenpairs(H, KEY, 1, "smallest", rtol=1e-5).values,
        lambda H: cv.sharpness(H, KEY, rtol=1e-5).value,
        lambda H: cv.trace(H, KEY, 8, "hutchinson").value,
        lambda H: cv.trace(H, KEY, 9, "hutch++").value,
        lambda H: cv.trace(H, KEY, 8, "xtrace").value,
        lambda H: cv.trace(H, KEY, 100).value,
        lambda H: cv.moments(H, KEY, 4).frobenius.value,
        lambda H: cv.log_determinant(H + 2.0, KEY, 1.0, 8, 2).value,
        lambda H: cv.blocks(H)["in"].to_dense(),
        lambda H: cv.restrict(2 * H - 1.0, "out").to_dense(),
        lambda H: cv.linearize(H).to_dense(),
    ],
)
def test_every_estimate_is_that_of_the_arrays(measured, both):
    streamed, arrays = map(measured, both)
    np.testing.assert_allclose(streamed, arrays, rtol=1e-5, atol=1e-5)


def fisher(data):
    return cv.fisher(losses, PARAMS, data)


def covariance(data):
    return cv.gradient_covariance(losses, PARAMS, data)


@pytest.mark.parametrize(
    "make",
    [
        fisher,
        covariance,
        lambda data: cv.gauss_newton(predict, criterion, PARAMS, data),
        lambda data: cv.residual(predict, criterion, PARAMS, data),
        lambda data: cv.model_fisher(predict, PARAMS, data),
        lambda data: cv.hessian(loss, PARAMS, data) - cv.gauss_newton(predict, criterion, PARAMS, ARRAYS),
    ],
    ids=["fisher", "covariance", "gauss-newton", "residual", "model fisher", "sum with arrays"],
)
def test_every_matrix_is_that_of_the_arrays(make):
    np.testing.assert_allclose(make(cv.Stream(cut(ARRAYS))).to_dense(), make(ARRAYS).to_dense(), atol=1e-6)


@pytest.mark.slow
def test_h_g_and_r_from_one_pass_a_step():
    loader = Loader(cut(ARRAYS))
    streamed = cv.decompose(predict, criterion, PARAMS, cv.Stream(loader), KEY, 5, 1, 2, exact=True)
    arrays = cv.decompose(predict, criterion, PARAMS, ARRAYS, KEY, 5, 1, 2, exact=True)
    for ours, theirs in zip(streamed[:3], arrays[:3], strict=True):
        np.testing.assert_allclose(ours.spectrum.nodes, theirs.spectrum.nodes, atol=1e-5)
        np.testing.assert_allclose(ours.moments.trace.value, theirs.moments.trace.value, atol=1e-5)
        np.testing.assert_allclose(ours.exact.values, theirs.exact.values, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("size", [SIZE, 5, N])
def test_weights_are_normalised_over_all_batches(size):
    H = cv.hessian(masked, PARAMS, cv.Stream(cut(ARRAYS, size), weights="m"))
    np.testing.assert_allclose(H.to_dense(), exact(masked), atol=1e-6)
    line = cv.along(masked, PARAMS, PARAMS, [0.0, 0.3], cv.Stream(cut(ARRAYS, size), weights="m"))
    moved = jax.tree.map(lambda p: 1.3 * p, PARAMS)
    np.testing.assert_allclose(line.values, [masked(PARAMS, ARRAYS), masked(moved, ARRAYS)], rtol=1e-5)


def test_sequences_of_a_length_of_their_own_in_every_batch():
    lengths = [4, 7, 4]
    batches = [
        {"x": RANDOM.normal(size=(5, T, D)).astype(np.float32), "m": (RANDOM.random((5, T)) < 0.5).astype(np.float32)}
        for T in lengths
    ]
    batches[1]["m"][:3] = 0

    def of_tokens(params, batch):
        each = jnp.sum(jnp.tanh(batch["x"] @ params["in"]) ** 2, axis=-1)
        return jnp.sum(batch["m"] * each) / jnp.sum(batch["m"])

    flat = {name: np.concatenate([b[name].reshape(-1, *b[name].shape[2:]) for b in batches]) for name in ("x", "m")}
    H = cv.hessian(of_tokens, PARAMS, cv.Stream(batches, weights="m"))
    np.testing.assert_allclose(H.to_dense(), exact(of_tokens, flat), atol=1e-6)


@pytest.mark.slow
def test_batches_that_share_statistics():
    def normalised(params, batch):
        hidden = batch["x"] @ params["in"]
        hidden = (hidden - hidden.mean(0, keepdims=True)) / jnp.sqrt(hidden.var(0, keepdims=True) + 1e-3)
        return criterion(jnp.tanh(hidden) @ params["out"], batch)

    streamed = cv.hessian(normalised, PARAMS, cv.Stream(cut(ARRAYS), statistics_batch=4))
    arrays = cv.hessian(normalised, PARAMS, cv.Batches(ARRAYS, 8, statistics_batch=4))
    np.testing.assert_allclose(streamed.to_dense(), arrays.to_dense(), atol=1e-6)
    with pytest.raises(InputError, match="multiple of statistics_batch, 3, got 8"):
        cv.Stream(cut(ARRAYS), statistics_batch=3)
    with pytest.raises(InputError, match=r"statistics_batch=\.\.\."):
        cv.hessian(normalised, PARAMS, cv.Stream(cut(ARRAYS)))


def test_lines_planes_and_jacobians():
    loader = Loader(cut(ARRAYS))
    stream, other = cv.Stream(loader), jax.tree.map(lambda p: 0.5 * p, PARAMS)
    before = loader.read
    line, of_arrays = (cv.line(loss, PARAMS, other, [0, 0.4, 1], data) for data in (stream, ARRAYS))
    assert loader.read - before == len(loader)  # once for all points
    np.testing.assert_allclose(line.values, of_arrays.values, rtol=1e-6)
    plane, of_arrays = (cv.plane(loss, PARAMS, PARAMS, other, [0, 1], [0, 1], data) for data in (stream, ARRAYS))
    np.testing.assert_allclose(plane.values, of_arrays.values, rtol=1e-6)

    def of_inputs(params, x):
        return predict(params, {"x": x})

    norms, of_arrays = (cv.jacobian_norms(of_inputs, PARAMS, data) for data in (cv.Stream(cut(X)), X))
    np.testing.assert_allclose(norms.values, of_arrays.values, rtol=1e-5)
    with pytest.raises(InputError, match="a stream of single arrays"):
        cv.jacobian_norms(of_inputs, PARAMS, stream)


def test_check_and_plan(both):
    streamed, _ = both
    check = cv.check(streamed, KEY)
    assert check.finite_difference < 1e-6
    assert check.batch_weights < 1e-5
    assert "first batch" in check.notes[0]
    plan = cv.plan(streamed, 5)
    assert (plan.num_examples, plan.batch_size, plan.fits) == (N, SIZE, True)


def test_a_stored_recurrence_belongs_to_the_contents_of_its_stream(tmp_path):
    H = cv.hessian(loss, PARAMS, cv.Stream(cut(ARRAYS)))
    first = cv.lanczos(H, KEY, 4, folder=tmp_path)
    again = cv.lanczos(cv.hessian(loss, PARAMS, cv.Stream(Loader(cut(ARRAYS)))), KEY, 4, folder=tmp_path)
    np.testing.assert_array_equal(first.alphas, again.alphas)
    changed = cv.hessian(loss, PARAMS, cv.Stream(cut(ARRAYS | {"m": 1 - MASK})))
    with pytest.raises(InputError, match="another operator"):
        cv.lanczos(changed, KEY, 4, folder=tmp_path)


def test_a_product_reads_every_batch_once():
    loader = Loader(cut(ARRAYS))
    H = cv.hessian(loss, PARAMS, cv.Stream(loader))
    before = loader.read
    H(jnp.ones(H.size))
    assert loader.read - before == len(loader)
    before = loader.read
    (H - cv.gauss_newton(predict, criterion, PARAMS, H.terms[0].batches))(jnp.ones(H.size))
    assert loader.read - before == 2 * len(loader)  # to look at the loss, and once for both terms
    before = loader.read
    result = cv.lanczos(H, KEY, 5)
    assert loader.read - before == 5 * len(loader)
    assert result.num_products == 5
    before = loader.read
    assert not np.any(H(jnp.zeros(H.size)))
    assert loader.read == before  # as in a recurrence that has ended


def test_batches_of_one_shape_are_compiled_once():
    sizes = deque()  # known to the hash of a function by identity alone, whatever it holds

    def counted(params, batch):
        sizes.append(len(batch["x"]))
        return loss(params, batch)

    H = cv.hessian(counted, PARAMS, cv.Stream(cut(ARRAYS)))
    sizes.clear()
    H(jnp.ones(H.size))
    assert set(sizes) == {SIZE, N % SIZE}
    assert sizes.count(SIZE) == sizes.count(N % SIZE)  # though there are three full batches
    sizes.clear()
    H(jnp.ones(H.size))
    cv.lanczos(H, KEY, 5)
    cv.hessian(counted, PARAMS, cv.Stream(cut(ARRAYS)))(jnp.ones(H.size))
    assert set(sizes) <= {SIZE}  # looked at, and not compiled
    assert len(sizes) < 8


def test_the_next_batch_is_loaded_while_a_product_runs(monkeypatch):
    asked = [threading.Event() for _ in range(5)]

    def batches():
        for event, batch in zip(asked, cut(ARRAYS), strict=False):
            event.set()
            yield batch
        asked[4].set()

    H = cv.hessian(loss, PARAMS, cv.Stream(batches))
    for event in asked:
        event.clear()
    number, add = 0, operator._add_batch

    def slow(*args, **options):
        nonlocal number
        number += 1
        assert asked[number].wait(30), "the next batch was not asked for before the product ended"
        if number + 1 < len(asked):
            assert not asked[number + 1].is_set()  # one ahead, and no more
        return add(*args, **options)

    monkeypatch.setattr(operator, "_add_batch", slow)
    H(jnp.ones(H.size))
    assert number == 4


def shuffled():
    order = np.random.default_rng().permutation(N)
    return cut(jax.tree.map(lambda x: x[order], ARRAYS))


def test_what_changes_between_passes_is_named():
    generator = (batch for batch in cut(ARRAYS))
    with pytest.raises(InputError, match="a generator can be read once; give a list, a data loader, or a function"):
        cv.Stream(generator)
    assert next(generator)["x"].shape == (SIZE, D)  # which was left as it was
    for once in (iter(cut(ARRAYS)), map(dict, cut(ARRAYS))):
        with pytest.raises(InputError, match="4 batches in its first pass and none in another: a generator"):
            cv.Stream(once)
    with pytest.raises(InputError, match=r"shuffles its examples between passes, seen in batch 0; .*shuffle=False"):
        cv.Stream(shuffled)
    with pytest.raises(InputError, match="changes the contents of its batches between passes"):
        cv.Stream(lambda: cut(ARRAYS | {"x": X + np.random.default_rng().normal(size=X.shape).astype(np.float32)}))


def test_what_changes_later_is_named_by_the_product_that_meets_it():
    batches = cut(ARRAYS)
    H = cv.hessian(loss, PARAMS, cv.Stream(batches))
    v = jnp.ones(H.size)
    last = batches.pop()
    with pytest.raises(InputError, match="changed its length: 4 batches in its first pass, 3 in another"):
        H(v)
    batches += [last, last]
    with pytest.raises(InputError, match="changed its length: 4 batches in its first pass, more in another"):
        cv.sharpness(H, KEY)
    batches.pop()
    batches[1], batches[2] = batches[2], batches[1]
    with pytest.raises(InputError, match="shuffles its examples between passes, seen in batch 1"):
        cv.spectrum(H, KEY, 4)
    batches[1], batches[2] = batches[2], batches[1]
    flipped = batches[3] | {"x": batches[3]["x"][:, ::-1]}  # the same bytes, in other places of an example
    kept, batches[3] = batches[3], flipped
    with pytest.raises(InputError, match="changes the contents of its batches between passes, seen in batch 3"):
        cv.trace(H, KEY, 2)
    batches[3] = jax.tree.map(lambda x: x[:1], kept)
    with pytest.raises(InputError, match="batch 3 held 2 examples in the first pass and 1 in another"):
        H(v)
    batches[3] = kept
    np.testing.assert_allclose(H(v), exact() @ np.ones(H.size), atol=1e-5)


def test_an_error_of_the_loader_keeps_its_traceback():
    broken = False

    def read_a_file():
        raise OSError("no such file")

    def batches():
        for number, batch in enumerate(cut(ARRAYS)):
            if broken and number == 2:
                read_a_file()
            yield batch

    H = cv.hessian(loss, PARAMS, cv.Stream(batches))
    broken = True
    with pytest.raises(OSError, match="no such file") as raised:
        H(jnp.ones(H.size))
    names = [frame.name for frame in traceback.extract_tb(raised.value.__traceback__)]
    assert names[-2:] == ["batches", "read_a_file"]
    assert not threads()


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interrupted_product_leaves_no_thread(error, monkeypatch):
    H = cv.hessian(loss, PARAMS, cv.Stream(cut(ARRAYS)))

    def interrupted(*args, **options):
        raise error

    add = operator._add_batch
    monkeypatch.setattr(operator, "_add_batch", interrupted)
    with pytest.raises(error):
        H(jnp.ones(H.size))
    monkeypatch.setattr(operator, "_add_batch", add)
    for thread in threads():  # an interrupt does not wait for the batch that is being loaded
        thread.join(30)
        assert not thread.is_alive()
    np.testing.assert_allclose(H(jnp.ones(H.size)), exact() @ np.ones(H.size), atol=1e-5)


def test_an_interrupt_does_not_wait_for_a_loader_that_hangs(monkeypatch):
    hangs, is_hanging, goes_on = threading.Event(), threading.Event(), threading.Event()

    def batches():
        for number, batch in enumerate(cut(ARRAYS)):
            if hangs.is_set() and number == 1:
                is_hanging.set()
                goes_on.wait(60)
            yield batch

    H = cv.hessian(loss, PARAMS, cv.Stream(batches))
    hangs.set()

    def interrupted(*args, **options):
        assert is_hanging.wait(30)
        raise KeyboardInterrupt

    monkeypatch.setattr(operator, "_add_batch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        H(jnp.ones(H.size))
    (thread,) = threads()
    goes_on.set()
    thread.join(30)
    assert not thread.is_alive()


def test_a_buffer_that_the_loader_uses_again_is_copied():
    buffer = np.empty((SIZE, D), np.float32)

    def batches():
        for start in range(0, 24, SIZE):
            buffer[:] = X[start : start + SIZE]
            yield {"x": buffer, "y": Y[start : start + SIZE]}

    H = cv.hessian(loss, PARAMS, cv.Stream(batches))
    np.testing.assert_allclose(H.to_dense(), exact(arrays={"x": X[:24], "y": Y[:24]}), atol=1e-6)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: cv.Stream([]), "at least one batch, got none"),
        (lambda: cv.Stream(ARRAYS), "must be a list, a data loader or a function, got dict; arrays are cv.Batches"),
        (lambda: cv.Stream(X), "arrays are cv.Batches"),
        (lambda: cv.Stream(7), "must be a list, a data loader or a function that returns an iterator, got int"),
        (lambda: cv.Stream([{"x": X, "y": Y[:3]}]), "batch 0 of the stream must be arrays with one leading axis"),
        (lambda: cv.Stream([{"x": X, "n": np.float32(3)}]), "with one leading axis of examples, not empty"),
        (lambda: cv.Stream([X, X[:0]]), "batch 1 of the stream .* not empty"),
        (lambda: cv.Stream([X, {"x": X}]), "must have the structure of the first"),
        (lambda: cv.Stream([{"x": X, "name": ["a"] * N}]), r"batch 0 of the stream\['name'\]\[0\] must be an array"),
        (lambda: cv.Stream([{"x": Broken()}]), r"\['x'\] cannot be made a NumPy array: TypeError: can't convert"),
        (lambda: cv.Stream(cut(ARRAYS), weights="n"), "no array of a batch is named 'n'; known: m, x, y"),
        (lambda: cv.Stream(cut(ARRAYS), weights=MASK), "weights of a stream are the name of an array"),
        (lambda: cv.Stream(cut(ARRAYS | {"m": -MASK}), weights="m"), "weights must be finite and at least 0, got -1"),
        (lambda: cv.Stream(cut(ARRAYS | {"m": 0 * MASK}), weights="m"), "must not be 0 throughout"),
        (lambda: cv.hessian(loss, PARAMS, Loader(cut(ARRAYS))), r"got Loader; .* are cv.Stream\(batches\)"),
        (lambda: cv.hessian(loss, PARAMS, (b for b in cut(ARRAYS))), r"got generator; .* are cv.Stream\(batches\)"),
        (lambda: cv.hessian(loss, PARAMS, lambda: cut(ARRAYS)), r"got function; .* are cv.Stream\(batches\)"),
        (lambda: cv.line(loss, PARAMS, PARAMS, [0], Loader(cut(ARRAYS))), r"are cv.Stream\(batches\)"),
        (lambda: cv.hessian(loss, PARAMS, cut(ARRAYS)), r"batches that come in turn are cv.Stream\(batches\)"),
        (lambda: cv.hessian(masked, PARAMS, cv.Stream(cut(ARRAYS))), "of 1 of 4 batches is not finite.*weights=m"),
        (lambda: cv.hessian(loss, PARAMS, cv.Stream(cut(ARRAYS | {"x": X / 0}))), r"data\['x'\] must be finite"),
        (
            lambda: cv.hessian(lambda w, b: jnp.sum(losses(w, b)), PARAMS, cv.Stream(cut(ARRAYS))),
            "must be the mean over its examples.* it is their sum",
        ),
        (
            lambda: cv.model_fisher(predict, PARAMS, cv.Stream(cut(ARRAYS)), (lambda k, f: f, lambda f, y: f[0]), KEY),
            "examples in memory: give cv.Batches",
        ),
    ],
)
def test_refusals_are_one_line(make, says):
    with np.errstate(all="ignore"), pytest.raises(InputError, match=says) as raised:
        make()
    assert "\n" not in str(raised.value)


def test_what_a_stream_cannot_do_says_what_to_do_instead(both):
    streamed, _ = both
    v = jnp.ones(streamed.size)
    with pytest.raises(InputError, match="outside jit"):
        jax.jit(lambda v: streamed(v))(v)
    with pytest.raises(InputError, match="outside jit"):
        jax.vmap(streamed)(jnp.stack([v, v]))
    with pytest.raises(InputError, match="leave loop out"):
        cv.spectrum(streamed, KEY, 3, loop="scan")
    for measure in (cv.minibatch_products, cv.minibatch_sharpness):
        with pytest.raises(InputError, match=r"give cv\.Batches"):
            measure(streamed, KEY, 2, 2)


def test_64_bit_mode_reaches_the_thread():
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda x: np.asarray(x, np.float64) if x.dtype == np.float32 else x, (PARAMS, ARRAYS))
        H = cv.hessian(loss, wide[0], cv.Stream(cut(wide[1])))
        assert H.dtype == np.float64
        np.testing.assert_allclose(H.to_dense(), exact(), atol=1e-13)


def test_a_stream_is_shown_in_short():
    assert repr(cv.Stream(cut(ARRAYS))) == "Stream(4 batches, 26 examples)"


def test_a_loader_of_pytorch():
    torch = pytest.importorskip("torch")
    data = torch.utils.data.TensorDataset(torch.tensor(X), torch.tensor(Y), torch.tensor(MASK))
    loader = torch.utils.data.DataLoader(data, batch_size=SIZE)
    H = cv.hessian(as_tuple(loss), PARAMS, cv.Stream(loader))
    np.testing.assert_allclose(H.to_dense(), exact(), atol=1e-6)
    with pytest.raises(InputError, match="shuffles its examples"):
        cv.Stream(torch.utils.data.DataLoader(data, batch_size=SIZE, shuffle=True))


@pytest.mark.slow
def test_a_loader_of_grain():
    grain = pytest.importorskip("grain.python")
    rows = [{name: array[i] for name, array in ARRAYS.items()} for i in range(N)]
    batches = grain.MapDataset.source(rows).batch(SIZE)
    H = cv.hessian(loss, PARAMS, cv.Stream(batches.to_iter_dataset()))
    np.testing.assert_allclose(H.to_dense(), exact(), atol=1e-6)
