"""Finished runs whose arrays are chosen."""

import json

import numpy as np
from fabricated_runs import sealed, write_run

from hessflat.analysis.results import Run, load_run


def stored_run(folder, seed, name, arrays, config, metrics=None):
    (folder / "spectra").mkdir(parents=True, exist_ok=True)
    for array, content in arrays.items():
        np.savez(folder / "spectra" / f"5-{array}.npz", **content)
    plain = {"seed": seed, "scale": "smoke", "model": {"name": name}, "data": {"name": "digits"}} | config
    return Run(folder, plain, {"status": "done", "examples": {"train": 64}}, [{"step": 5, **(metrics or {})}])


def written_run(root, seed, settings, lines):
    folder = write_run(root, 0.0, seed, epochs=(0,), spectra=False)
    config = json.loads((folder / "config.json").read_text())
    for block, values in settings.items():
        config[block] = config.get(block, {}) | values if isinstance(values, dict) else values
    (folder / "config.json").write_text(json.dumps(config))
    records = [{"step": 10 * i, "epoch": 10.0 * i, **line} for i, line in enumerate(lines)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return load_run(sealed(folder))


def verdicts(experiment, runs):
    return {claim.id: claim.decide(runs).verdict for claim in experiment.EXPERIMENT.claims}
