"""Small problems of every form that people bring, each with its curvature in float64 by other means than the library's.

Truth is `jax.hessian` and `jax.jacrev` of the same functions, of all parameters as one flat vector, in float64.
The module is long because each form is written out.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

Tree = Any
VARIANTS = 3  # of the numbers of each problem, whose shapes stay


class Functions(NamedTuple):
    """What a user writes."""

    predict: Callable[..., Any]
    losses: Callable[..., Any]  # of outputs and batch, [n] or [n, T]
    criterion: Callable[..., Any]  # of outputs and batch, their mean


class Problem(NamedTuple):
    """Functions, parameters and data of one form."""

    name: str
    functions: Functions
    exact: Functions  # the same, with nothing that rounds on purpose
    params: Tree
    batch: dict[str, np.ndarray]
    state: Tree = None
    x64: bool = False
    weights: str | None = None  # the array that the mean is weighted by
    statistics_batch: int | None = None
    likelihood: str | None = None
    layers: tuple[str, ...] = ()  # leaves that can be chosen

    @property
    def number(self) -> int:
        """N."""
        return len(self.batch["x"])

    @property
    def narrow(self) -> bool:
        """Whether parameters are of less than 32 bits."""
        return any(jnp.asarray(leaf).dtype.itemsize < 4 for leaf in jax.tree.leaves(self.params))


def _cross_entropy(outputs: Any, batch: Any, *state: Any) -> Any:
    log = jax.nn.log_softmax(outputs)
    return -jnp.take_along_axis(log, batch["y"][..., None], axis=-1)[..., 0]


def _squares(outputs: Any, batch: Any, *state: Any) -> Any:
    return jnp.sum((outputs - batch["y"].astype(outputs.dtype)) ** 2, axis=-1)


def _binary(outputs: Any, batch: Any, *state: Any) -> Any:
    return jax.nn.softplus(outputs) - outputs * batch["y"].astype(outputs.dtype)


def _mean_of(losses: Callable[..., Any]) -> Callable[..., Any]:
    return lambda outputs, batch, *state: jnp.mean(losses(outputs, batch, *state))


def _weighted_mean_of(losses: Callable[..., Any]) -> Callable[..., Any]:
    def criterion(outputs: Any, batch: Any, *state: Any) -> Any:
        values = losses(outputs, batch, *state)
        weights = batch["mask"].astype(values.dtype)
        return jnp.sum(weights * values) / jnp.sum(weights)

    return criterion


def _mlp(activation: Callable[..., Any], dtype: Any = None) -> Callable[..., Any]:
    def predict(params: Any, batch: Any, *state: Any) -> Any:
        x = batch["x"]
        first, second = params["dense_0"], params["dense_1"]
        if dtype is not None:
            x, first, second = jax.tree.map(lambda a: a.astype(dtype), (x, first, second))
        hidden = activation(x @ first["kernel"] + first["bias"])
        if state:
            scale = 1 + 0.3 * jax.random.normal(state[0]["key"], (len(state[0]["shift"]),), jnp.float32)
            hidden = hidden * scale.astype(hidden.dtype) + state[0]["shift"].astype(hidden.dtype)
        return hidden @ second["kernel"] + second["bias"]

    return predict


def _of_pair(params: Any, batch: Any) -> Any:
    return batch["x"] @ params[0] + params[1]


def _of_matrix(params: Any, batch: Any) -> Any:
    return batch["x"] @ params


def _of_vector(params: Any, batch: Any) -> Any:
    return jnp.sin(batch["x"] @ params)


def _of_scalar(params: Any, batch: Any) -> Any:
    return jnp.tanh(params * batch["x"])


def _of_nested(params: Any, batch: Any) -> Any:
    hidden = jnp.tanh(batch["x"] @ params["a"][0])
    return hidden @ params["b"][0] + params["b"][1]["bias"]


def _of_tokens(params: Any, batch: Any) -> Any:
    return jnp.tanh(batch["x"]) @ params["head"]


def _of_stack(params: Any, batch: Any) -> Any:
    hidden, _ = jax.lax.scan(lambda h, layer: (jnp.tanh(h @ layer), None), batch["x"], params["layers"])
    return hidden @ params["head"]


def _of_batch_norm(params: Any, batch: Any) -> Any:
    hidden = batch["x"] @ params["kernel"]
    centred = hidden - hidden.mean(axis=0)
    return (centred / jnp.sqrt((centred**2).mean(axis=0) + 0.1)) @ params["head"]


def _with_integers(params: Any, batch: Any) -> Any:
    return batch["x"] @ params["w"] * (1 + params["steps"][0]).astype(params["w"].dtype)


@jax.custom_vjp
def _own_rule(x: Any) -> Any:
    return jnp.tanh(x)


_own_rule.defvjp(lambda x: (jnp.tanh(x), jnp.tanh(x)), lambda y, g: (g * (1 - y**2),))


def _functions(predict: Callable[..., Any], losses: Callable[..., Any], weighted: bool = False) -> Functions:
    return Functions(predict, losses, (_weighted_mean_of if weighted else _mean_of)(losses))


_MLPS = {name: _mlp(getattr(jax.nn, name)) for name in ("tanh", "relu", "softplus")}
_OWN_RULE, _IN_BFLOAT16 = _mlp(_own_rule), _mlp(jnp.tanh, jnp.bfloat16)
_TANH_CE = _functions(_MLPS["tanh"], _cross_entropy)


def _arrays(name: str, variant: int) -> Callable[..., np.ndarray]:
    numbers = np.random.default_rng([variant, *name.encode()])
    return lambda *shape: numbers.standard_normal(shape).astype(np.float32)


def _dense(draw: Callable[..., np.ndarray], inside: int, hidden: int, outside: int, dtypes: Any) -> Tree:
    tree = {
        "dense_0": {"bias": draw(hidden), "kernel": draw(inside, hidden)},
        "dense_1": {"bias": draw(outside), "kernel": 0.7 * draw(hidden, outside)},
    }
    leaves, structure = jax.tree.flatten(tree)
    types = dtypes if isinstance(dtypes, tuple) else (dtypes,) * len(leaves)
    return jax.tree.unflatten(structure, [jnp.asarray(x, t) for x, t in zip(leaves, types, strict=True)])


_NUMBER = 23


def _data(draw: Callable[..., np.ndarray], inside: int, classes: int, real: int = 0) -> dict[str, np.ndarray]:
    inputs = draw(_NUMBER, inside)
    if real:
        return {"x": inputs, "y": draw(_NUMBER, real)}
    return {"x": inputs, "y": np.abs(100 * draw(_NUMBER)).astype(np.int32) % classes}


def _make(name: str, variant: int) -> Problem:
    draw = _arrays(name, variant)
    both = lambda functions, **rest: {"functions": functions, "exact": functions} | rest  # noqa: E731
    params: Tree
    types = {"bfloat16": jnp.bfloat16, "float16": jnp.float16, "float64": jnp.float64}
    mlp = ("dense_0/*", "dense_1/*", "*/kernel", "dense_1/bias")
    if name == "linear":
        params = [0.5 * draw(4, 3), draw(3)]
        return Problem(name, **both(_functions(_of_pair, _squares)), params=params, batch=_data(draw, 4, 0, 3),
                       likelihood="gaussian", layers=("0", "1"))  # fmt: skip
    if name == "logistic":
        params = (draw(4, 3), draw(3))
        return Problem(name, **both(_functions(_of_pair, _cross_entropy)), params=params, batch=_data(draw, 4, 3),
                       likelihood="softmax", layers=("0", "1"))  # fmt: skip
    if name in ("tanh", "bfloat16", "float16", "float64"):
        params = _dense(draw, 3, 4, 3, types.get(name, jnp.float32))
        return Problem(name, **both(_TANH_CE), params=params, batch=_data(draw, 3, 3), x64=name == "float64",
                       likelihood="softmax", layers=mlp)  # fmt: skip
    if name == "relu":
        params = _dense(draw, 3, 5, 2, jnp.float32)
        return Problem(name, **both(_functions(_MLPS["relu"], _squares)), params=params, batch=_data(draw, 3, 0, 2),
                       likelihood="gaussian", layers=mlp)  # fmt: skip
    if name == "softplus":  # one narrow leaf among wide ones
        params = _dense(draw, 2, 4, 2, (jnp.float32, jnp.bfloat16, jnp.float32, jnp.float32))
        return Problem(name, **both(_functions(_MLPS["softplus"], _cross_entropy)), params=params,
                       batch=_data(draw, 2, 2), likelihood="softmax", layers=mlp)  # fmt: skip
    if name == "cast":  # parameters in float32, forward pass in bfloat16
        functions = _functions(_IN_BFLOAT16, _squares)
        return Problem(name, functions, functions._replace(predict=_MLPS["tanh"]), _dense(draw, 3, 4, 2, jnp.float32),
                       _data(draw, 3, 0, 2), layers=mlp)  # fmt: skip
    if name == "own rule":
        functions = _functions(_OWN_RULE, _cross_entropy)
        return Problem(name, functions, functions._replace(predict=_MLPS["tanh"]), _dense(draw, 3, 4, 3, jnp.float32),
                       _data(draw, 3, 3), likelihood="softmax", layers=mlp)  # fmt: skip
    if name == "state":
        state = {"key": jax.random.key(variant), "shift": 0.1 * draw(4)}
        return Problem(name, **both(_TANH_CE), params=_dense(draw, 3, 4, 3, jnp.float32), batch=_data(draw, 3, 3),
                       state=state, likelihood="softmax", layers=mlp)  # fmt: skip
    if name == "mask":
        batch = _data(draw, 3, 3) | {"mask": np.abs(draw(_NUMBER)) * (draw(_NUMBER) > -0.5)}
        batch["mask"][3:17] *= variant > 0  # whole batches without weight
        batch["mask"][0] = 1
        return Problem(name, **both(_functions(_MLPS["tanh"], _cross_entropy, True)), batch=batch,
                       params=_dense(draw, 3, 4, 3, jnp.float32), weights="mask", likelihood="softmax", layers=mlp,
                       )  # fmt: skip
    if name in ("tokens", "weighted tokens"):
        batch = {"x": draw(_NUMBER, 4, 3), "y": np.abs(100 * draw(_NUMBER, 4)).astype(np.int32) % 5}
        weighted = name != "tokens"
        if weighted:
            batch["mask"] = (draw(_NUMBER, 4) > -0.4).astype(np.float32)
            batch["mask"][0] = 1
        return Problem(name, **both(_functions(_of_tokens, _cross_entropy, weighted)), batch=batch,
                       params={"head": draw(3, 5)}, weights="mask" if weighted else None, likelihood="softmax",
                       layers=("head",))  # fmt: skip
    if name == "scalar":
        batch = {"x": draw(_NUMBER), "y": draw(_NUMBER) > 0}
        return Problem(name, **both(_functions(_of_scalar, _binary)), params=jnp.asarray(0.4 + variant), batch=batch,
                       likelihood="bernoulli")  # fmt: skip
    if name == "vector":
        batch = {"x": draw(_NUMBER, 6), "y": draw(_NUMBER) > 0}
        return Problem(name, **both(_functions(_of_vector, _binary)), params=draw(6), batch=batch,
                       likelihood="bernoulli")  # fmt: skip
    if name == "matrix":
        return Problem(name, **both(_functions(_of_matrix, _cross_entropy)), params=draw(5, 4),
                       batch=_data(draw, 5, 4), likelihood="softmax")  # fmt: skip
    if name == "nested":
        params = {"a": [draw(3, 4), None], "b": (draw(4, 2), {"bias": draw(2)})}
        return Problem(name, **both(_functions(_of_nested, _squares)), params=params, batch=_data(draw, 3, 0, 2),
                       likelihood="gaussian", layers=("a/*", "b/*", "b/1/bias"))  # fmt: skip
    if name == "stack":
        params = {"head": draw(3, 2), "layers": 0.8 * draw(3, 3, 3)}
        return Problem(name, **both(_functions(_of_stack, _squares)), params=params, batch=_data(draw, 3, 0, 2),
                       likelihood="gaussian", layers=("head", "layers", "layers/1"))  # fmt: skip
    if name == "batch norm":
        params = {"head": draw(4, 2), "kernel": draw(3, 4)}
        batch = {"x": draw(24, 3), "y": draw(24, 2)}
        return Problem(name, **both(_functions(_of_batch_norm, _squares)), params=params, batch=batch,
                       statistics_batch=(8, 6, 24)[variant], layers=("head", "kernel"))  # fmt: skip
    assert name == "integers", name
    params = {"steps": np.array([variant, 2], np.int32), "w": draw(3, 2)}
    return Problem(name, **both(_functions(_with_integers, _squares)), params=params, batch=_data(draw, 3, 0, 2),
                   layers=("w",))  # fmt: skip


# In the order in which they are drawn: the first ones oftener, so that what is compiled serves several cases.
NAMES = (
    "tanh", "linear", "logistic", "vector", "bfloat16", "nested", "mask", "relu", "scalar", "float64", "softplus",
    "matrix", "state", "cast", "stack", "tokens", "float16", "own rule", "weighted tokens", "batch norm", "integers",
)  # fmt: skip


@functools.cache
def problem(name: str, variant: int) -> Problem:
    """A problem by its name; each variant has other numbers."""
    with jax.enable_x64(name == "float64"):
        return _make(name, variant)


class Truth(NamedTuple):
    """Curvature in float64, of the parameters as one vector [P] in the order of the leaves."""

    loss: float
    hessian: np.ndarray  # [P, P]
    gauss_newton: np.ndarray
    outputs: np.ndarray  # [N, ...]
    jacobian: np.ndarray  # [N, C, P] of the outputs of each example
    gradients: np.ndarray  # [L, P] of every single loss; L is N, or N T with tokens
    each: np.ndarray  # [N, P, P] Hessian of the losses of each example, for the mean over some


def flat(tree: Tree) -> np.ndarray:
    """[P] in float64: every leaf ravelled, one after the other."""
    return np.concatenate([np.asarray(leaf).astype(np.float64).ravel() for leaf in jax.tree.leaves(tree)])


def same_form(a: Tree, b: Tree) -> bool:
    """Whether two trees have one structure."""
    ours: Any = jax.tree.structure(a)
    return bool(ours == jax.tree.structure(b))


def shaped(like: Tree, vector: Any) -> Tree:
    """The inverse of `flat`, for leaves of any type."""
    leaves, structure = jax.tree.flatten(like)
    ends = np.cumsum([np.size(leaf) for leaf in leaves])
    parts = [
        vector[int(end) - np.size(leaf) : int(end)].reshape(np.shape(leaf))
        for leaf, end in zip(leaves, ends, strict=True)
    ]
    return jax.tree.unflatten(structure, parts)


def doubled(tree: Tree) -> Tree:
    """Floating leaves in float64; keys and integers as they are."""

    def wide(leaf: Any) -> Any:
        if isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return leaf
        array = np.asarray(leaf)
        return array if array.dtype.kind in "iub" else array.astype(np.float64)

    return jax.tree.map(wide, tree)


@functools.cache
def _truth_compiled(name: str, variant: int) -> Callable[..., Any]:
    """One program, of the flat vector, the batch and the state, for all problems with the shapes of this variant."""
    one = problem(name, variant)
    functions, like = one.exact, one.params

    def chunks(x: Any, batch: Any, state: Any) -> Any:
        size = one.statistics_batch
        if size is None:
            return functions.predict(shaped_like(x), batch, *state)
        cuts = [jax.tree.map(lambda a, i=i: a[i : i + size], batch) for i in range(0, one.number, size)]
        return jnp.concatenate([functions.predict(shaped_like(x), cut, *state) for cut in cuts])

    kinds = [jnp.issubdtype(jnp.asarray(leaf).dtype, jnp.integer) for leaf in jax.tree.leaves(like)]

    def shaped_like(x: Any) -> Any:
        leaves, structure = jax.tree.flatten(shaped(like, x))
        restored = [leaf.astype(jnp.int32) if kind else leaf for leaf, kind in zip(leaves, kinds, strict=True)]
        return jax.tree.unflatten(structure, restored)

    def everything(x: Any, batch: Any, state: Any) -> Any:
        predict = lambda x: chunks(x, batch, state)  # noqa: E731
        criterion = lambda f: functions.criterion(f, batch, *state)  # noqa: E731
        losses = lambda x: functions.losses(predict(x), batch, *state)  # noqa: E731
        outputs = predict(x)
        jacobian = jax.jacfwd(predict)(x).reshape(outputs.size, -1)
        inner = jax.hessian(criterion)(outputs).reshape(outputs.size, outputs.size)
        per_example = lambda x: losses(x).reshape(one.number, -1).sum(axis=1)  # noqa: E731
        return (
            criterion(outputs),
            jax.hessian(lambda x: criterion(predict(x)))(x),
            jacobian.T @ inner @ jacobian,
            outputs,
            jacobian.reshape(one.number, -1, len(x)),
            jax.jacfwd(losses)(x).reshape(-1, len(x)),
            jax.jacfwd(jax.jacrev(per_example))(x),
        )

    return jax.jit(everything)


@functools.cache
def truth(name: str, variant: int) -> Truth:
    """The curvature of a problem."""
    one = problem(name, variant)
    with jax.enable_x64(True), jax.default_matmul_precision("highest"):
        state = () if one.state is None else (doubled(one.state),)
        results = _truth_compiled(name, variant if one.statistics_batch else 0)(
            flat(one.params), doubled(one.batch), state
        )
        loss, arrays = results[0], [np.asarray(result) for result in results[1:]]
    return Truth(float(loss), *arrays)
