"""Every function of `hessflat.curvature` on examples spread over all devices there are, in one process or several.

`python library.py OUT [NAME ...]` writes what process I finds to OUT-I.json: numbers by the function's name, or a text.
"""

import json
import sys
from pathlib import Path

import jax
import numpy as np

import hessflat.curvature as cv
from hessflat.utils import hardware, processes

processes.start()

from test_curvature.curvature_cases import criterion, examples, loss, losses, mlp_params, predict  # noqa: E402

NUMBER = 64
mesh = jax.make_mesh((jax.device_count(),), ("examples",), (jax.sharding.AxisType.Auto,))
params, batch = hardware.replicate(mlp_params(6, 8, 4), mesh), hardware.shard_examples(examples(NUMBER, 6, 4), mesh)
data, key = cv.Batches(batch, 32), jax.random.key(0)
hessian = cv.hessian(loss, params, data)
G = cv.gauss_newton(predict, criterion, params, data)
fsdp = cv.hessian(loss, hardware.place_state(mlp_params(6, 8, 4), mesh, fsdp=True), data)
fewer = hardware.replicate(examples(NUMBER - 3, 6, 4), mesh)
uneven = cv.hessian(loss, params, cv.spread(fewer))
other = jax.tree.map(lambda leaf: 1.1 * leaf, params)
folder = Path(sys.argv[1] + "-folder")


def flat(rows):
    """Vectors [..., P] of a tree with leaves [..., *shape], which may lie on devices of several processes."""
    leaves = [hardware.on_host(leaf) for leaf in jax.tree.leaves(rows)]
    return np.concatenate([leaf.reshape(6, -1) for leaf in leaves], axis=1)


SAMPLED = (jax.random.categorical, lambda outputs, label: jax.nn.log_softmax(outputs)[label])


CASES = {
    "product": lambda: hessian(np.linspace(-1, 1, hessian.size, dtype=np.float32)),
    "python": lambda: cv.lanczos(hessian, key, 6, loop="python").alphas,
    "linearize": lambda: cv.linearize(hessian)(np.ones(hessian.size, np.float32)),
    "lanczos": lambda: cv.lanczos(hessian, key, 12, 2).alphas,
    "selective": lambda: cv.lanczos(hessian, key, 12, reorthogonalise="selective").alphas,
    "none": lambda: cv.lanczos(hessian, key, 12, reorthogonalise="none").alphas,
    "half": lambda: cv.lanczos(hessian, key, 6, storage="half").alphas,
    "host": lambda: cv.lanczos(hessian, key, 12, storage="host").alphas,
    "basis": lambda: flat(cv.lanczos(hessian, key, 6, return_basis=True).basis),
    "folder": lambda: cv.lanczos(hessian, key, 12, 2, folder=folder).alphas,
    "folder again": lambda: cv.lanczos(hessian, key, 12, 2, folder=folder).alphas,
    "folder host": lambda: cv.lanczos(hessian, key, 12, storage="host", folder=f"{folder}-host").alphas,
    "spectrum": lambda: cv.spectrum(hessian, key, 12, 2).largest.value,
    "spectrum folder": lambda: cv.spectrum(hessian, key, 12, 2, folder=f"{folder}-spectrum").largest.value,
    "log_determinant": lambda: cv.log_determinant(G + 1.0, key, 12, 2).value,
    "eigenpairs": lambda: cv.eigenpairs(hessian, key, 2, "both").values,
    "sharpness": lambda: cv.sharpness(hessian, key).value,
    "eigvalsh": lambda: cv.eigvalsh(hessian),
    "gram": lambda: cv.eigvalsh(G),
    "exact_spectrum": lambda: cv.exact_spectrum(G).values,
    "to_dense": lambda: np.diagonal(hessian.to_dense()),
    "moments": lambda: cv.moments(hessian, key, 4).trace.value,
    "frobenius": lambda: cv.frobenius(hessian, key, 4).value,
    **{
        f"trace {method}": lambda method=method: cv.trace(hessian, key, 40, method=method).value
        for method in ("hutchinson", "hutch++", "xtrace")
    },
    "fisher": lambda: cv.sharpness(cv.fisher(losses, params, data), key).value,
    "model_fisher": lambda: cv.sharpness(cv.model_fisher(predict, params, data), key).value,
    "model_fisher sampled": lambda: cv.sharpness(cv.model_fisher(predict, params, data, SAMPLED, key), key).value,
    "residual": lambda: cv.sharpness(cv.residual(predict, criterion, params, data), key).value,
    "decompose": lambda: cv.decompose(predict, criterion, params, data, key, 8).gauss_newton.moments.trace.value,
    "gradient_covariance": lambda: cv.sharpness(cv.gradient_covariance(losses, params, data), key).value,
    "minibatch_products": lambda: cv.minibatch_products(hessian, key, 16, 3).samples,
    "minibatch_sharpness": lambda: cv.minibatch_sharpness(hessian, key, 16, 2).values,
    "restrict": lambda: cv.sharpness(cv.restrict(hessian, lambda path: "0" in path), key).value,
    "blocks": lambda: [cv.sharpness(op, key).value for op in cv.blocks(hessian).values()],
    "jacobian_norms": lambda: cv.jacobian_norms(lambda params, x: predict(params, {"x": x}), params, batch["x"]).values,
    "jacobian_norms pieces": lambda: (
        cv.jacobian_norms(lambda params, x: predict(params, {"x": x}), params, batch["x"], batch_size=24).values
    ),
    "jacobian_norms iterative": lambda: (
        cv.jacobian_norms(lambda params, x: predict(params, {"x": x}), params, batch["x"], method="iterative").values
    ),
    "check": lambda: cv.check(hessian, key).num_products,
    "plan": lambda: cv.plan(hessian, 12).num_products,
    "fsdp lanczos": lambda: cv.lanczos(fsdp, key, 12).alphas,
    "fsdp host": lambda: cv.lanczos(fsdp, key, 12, storage="host").alphas,
    "fsdp folder": lambda: cv.lanczos(fsdp, key, 12, folder=f"{folder}-fsdp").alphas,
    "fsdp folder again": lambda: cv.lanczos(fsdp, key, 12, folder=f"{folder}-fsdp").alphas,
    "fsdp eigenpairs": lambda: cv.eigenpairs(fsdp, key, 2, "both").values,
    "fsdp xtrace": lambda: cv.trace(fsdp, key, 40, method="xtrace").value,
    "fsdp moments": lambda: cv.moments(fsdp, key, 4).trace.value,
    "fsdp minibatch_products": lambda: cv.minibatch_products(fsdp, key, 16, 3).samples,
    "fsdp minibatch_sharpness": lambda: cv.minibatch_sharpness(fsdp, key, 16, 2).values,
    "uneven": lambda: cv.lanczos(uneven, key, 12).alphas,
    "uneven jacobian_norms": lambda: (
        cv.jacobian_norms(lambda params, x: predict(params, {"x": x}), params, fewer["x"]).values
    ),
    "line": lambda: cv.line(loss, params, other, [0.0, 0.5, 1.0], data).values,
    "along": lambda: cv.along(loss, params, cv.random_direction(key, params).vector, [0.0, 0.5], data).values,
    "plane": lambda: cv.plane(loss, params, other, params, [0.0, 0.5], [0.0, 0.5], data).values,
}


def outcome(function):
    try:
        return np.asarray(function(), np.float64).ravel().tolist()
    except Exception as error:
        return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


chosen = sys.argv[2:] or list(CASES)
found = {name: outcome(CASES[name]) for name in chosen}
Path(f"{sys.argv[1]}-{jax.process_index()}.json").write_text(json.dumps(found))
