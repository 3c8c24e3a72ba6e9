"""Run folders as training writes them, with numbers that are made up but plausible."""

import json
from pathlib import Path

import numpy as np

from hessflat.runs.run_folder import FORMAT, digests_until, read_lines, write_manifest

EPOCHS = (0, 1, 2, 5, 10, 20, 50)
PARAMETERS = 650


def write_run(
    root: Path,
    l2: float = 0.0,
    seed: int = 0,
    *,
    experiment: str = "toy",
    status: str = "done",
    reason: str | None = None,
    epochs: tuple[int, ...] = EPOCHS,
    final: dict | None = None,
    exact: bool = False,
    spectra: bool = True,
    **manifest,
) -> Path:
    """Write one run folder; `final` overrides metrics of the last step, `manifest` entries of the manifest."""
    folder = root / "runs" / experiment / f"toy-l2={l2:g}-seed={seed}-{abs(hash((l2, seed))) % 16**8:08x}"
    (folder / "spectra").mkdir(parents=True)
    rng = np.random.default_rng([seed, int(l2 * 1e6)])
    config = {
        "seed": seed,
        "scale": "smoke",
        "optim": {"l2": l2, "lr": 0.03},
        "model": {"name": "softmax_regression"},
        "data": {"name": "digits"},
    }
    written = {
        "status": status,
        "reason": reason,
        "format": FORMAT,
        "command": f"python -m hessflat train --config=configs/{experiment}.py --config.optim.l2={l2:g}",
        "versions": {"jax": "0.10.2", "numpy": "2.4.6"},
        "device": "cpu",
        "matmul_precision": "highest",
        "batch_norm_mode": None,
        "batch_stats_size": None,
        "data_checksum": "sha256:0123456789abcdef",
        "git_commit": "a" * 40,
        "started": "2026-01-01T00:00:00Z",
        "finished": "2026-01-01T00:01:00Z",
        "num_params": PARAMETERS,
        **manifest,
    }
    (folder / "config.json").write_text(json.dumps(config))
    strength = 1 + 2000 * l2
    lines = [_line(epoch, strength, rng) | (final or {} if epoch == epochs[-1] else {}) for epoch in epochs]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if spectra and lines:
        _write_spectra(folder, lines[-1]["step"], strength, exact, rng)
    write_manifest(folder, **written)
    return sealed(folder)


def sealed(folder: Path) -> Path:
    """The folder, its manifest brought up to what has been written into it."""
    lines = read_lines(folder / "metrics.jsonl")
    write_manifest(folder, digests={}, **({"steps": lines[-1]["step"]} if lines else {}))
    write_manifest(folder, digests=digests_until(folder, 10**9))
    return folder


def _line(epoch: int, strength: float, rng: np.random.Generator) -> dict:
    progress = 1 - np.exp(-epoch / 5)
    noise = 1 + 0.01 * rng.standard_normal()
    line = {
        "step": 10 * epoch,
        "epoch": epoch,
        "train_loss": 2.3 - 2.1 * progress,
        "train_accuracy": 0.1 + 0.895 * progress,
        "validation_loss": 2.3 - 2.0 * progress,
        "validation_accuracy": 0.1 + (0.80 + 0.02 * strength) * progress * noise,
        "test_loss": 2.3 - 1.95 * progress,
        "test_accuracy": 0.1 + (0.79 + 0.02 * strength) * progress * noise,
        "gap_loss": 0.15 * progress / strength,
        "gap_accuracy": 0.06 * progress / strength,
        "weight_norm": 3 + 4 * progress / strength,
        "rank_bound": 120.0,
        "zero_mass_bound": 1 - 120 / PARAMETERS,
        "jacobian.max": 1 + 3 * progress,
        "jacobian.mean": 0.5 + 2 * progress,
    }
    for operator in ("hessian", "gauss_newton"):
        top = (4 + 8 * progress * strength) * noise
        line |= {
            f"{operator}.lambda_max": top,
            f"{operator}.lambda_max_bound": 1e-4,
            f"{operator}.lambda_min": -0.2 if operator == "hessian" else 0.0,
            f"{operator}.lambda_min_bound": 1e-4,
            f"{operator}.trace": 3 * top,
            f"{operator}.trace_se": None,
            f"{operator}.mean_eigenvalue": 3 * top / PARAMETERS,
            f"{operator}.frobenius": 1.5 * top,
            f"{operator}.second_moment": 2 * top**2 / PARAMETERS,
            f"{operator}.zero_mass": (0.84 + 0.1 * progress) * (1 + 0.005 * rng.standard_normal()),
            f"{operator}.zero_value": 1e-5,
            f"{operator}.noise_floor": 1e-6,
        }
    return line


def _write_spectra(folder: Path, step: int, strength: float, exact: bool, rng: np.random.Generator) -> None:
    outliers = np.linspace(2, 12 * strength, 9) * (1 + 0.03 * rng.standard_normal(9))
    for operator in ("hessian", "gauss_newton"):
        low = -0.2 if operator == "hessian" else 0.0
        bulk = np.concatenate([np.linspace(low, -1e-3, 8) if low else [], np.geomspace(1e-6, 1.5, 22)])
        nodes = np.sort(np.concatenate([bulk, outliers]))
        weights = np.exp(-3 * np.abs(nodes) ** 0.5) * rng.uniform(0.2, 1, nodes.size)
        weights /= weights.sum()
        padded = np.zeros((2, nodes.size + 3)), np.zeros((2, nodes.size + 3))
        for probe in range(2):
            padded[0][probe, : nodes.size], padded[1][probe, : nodes.size] = nodes, weights
        np.savez(
            folder / "spectra" / f"{step}-{operator}.npz",
            nodes=padded[0],
            weights=padded[1],
            residuals=np.full(padded[0].shape, 1e-5),
            num_valid=np.array([nodes.size, nodes.size]),
            size=PARAMETERS,
        )
    if exact:
        small = rng.exponential(0.02, PARAMETERS - outliers.size)
        np.savez(folder / "spectra" / f"{step}-hessian-exact.npz", eigenvalues=np.sort(np.r_[small, outliers]))


def write_sweep(root: Path, l2s=(0.0, 1e-4, 5e-4), seeds=(0, 1, 2), **settings) -> list[Path]:
    """One folder per L2 and seed."""
    return [write_run(root, l2, seed, **settings) for l2 in l2s for seed in seeds]
