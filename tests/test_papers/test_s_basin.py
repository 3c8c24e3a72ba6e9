"""What decides the claims of s_basin, on runs whose numbers are chosen."""

import json
import math

import numpy as np
import pytest
from fabricated_runs import sealed, write_run

from experiments.sagun2017 import s_basin
from hessflat.analysis.interpolation import asymmetry
from hessflat.analysis.results import load_run
from hessflat.utils.errors import InputError

ALPHAS = np.array([-1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0])


def part(root, seed, batch_size, losses, line=None, steps=20):
    """A run of one part: its training losses at every second step; accuracies fall as losses rise."""
    folder = write_run(root / f"{batch_size}-{steps}", 0.0, seed, epochs=(0,), spectra=False)
    config = json.loads((folder / "config.json").read_text())
    init_from = "train.batch_size=256" if line is not None else ""
    config["train"] = {"batch_size": batch_size, "init_from": init_from, "steps": steps}
    (folder / "config.json").write_text(json.dumps(config))
    records = []
    for i, loss in enumerate(losses):
        accuracy = math.exp(-loss)
        records.append({"step": 2 * i, "epoch": i, "train_loss": loss, "test_loss": 2 * loss,
                        "train_accuracy": accuracy, "test_accuracy": accuracy / 2})  # fmt: skip
    if line is not None:
        records[-1]["line.train_barrier"] = float(max(0, line[3] - (line[2] + line[4]) / 2))
        np.savez(
            folder / "spectra" / f"{records[-1]['step']}-line.npz",
            alphas=ALPHAS, distance=3.0, train_loss=line, train_accuracy=np.exp(-np.asarray(line)),
        )  # fmt: skip
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return load_run(sealed(folder))


FALLING = np.linspace(1.0, 0.01, 11)
JUMPING = [0.01, 0.8, 0.4, *np.linspace(0.1, 0.005, 8)]
CALM = np.linspace(0.01, 0.005, 11)
NO_BARRIER = np.array([8.0, 3.0, 0.01, 0.008, 0.005, 0.1, 0.4])


def both(root, second, line, steps=20):
    result = []
    for seed in range(8):
        factor = 1 + 0.05 * seed
        result += [
            part(root, seed, 256, FALLING * factor, steps=steps),
            part(root, seed, 16, np.asarray(second) * factor, np.asarray(line) * factor, steps=steps),
        ]
    return result


def verdicts(runs):
    return {claim.id: claim.decide(runs).verdict for claim in s_basin.EXPERIMENT.claims}


def test_the_papers_picture_holds(tmp_path):
    result = verdicts(both(tmp_path, JUMPING, NO_BARRIER))
    assert result == {
        "jump-at-the-switch": "holds",
        "small-batches-better": "holds",
        "no-barrier": "holds",
        "large-batches-sharper": "holds",
        "no-barrier-at-lower-loss": "not run",
    }


def test_calm_switches_barriers_and_sharp_small_batches_are_told(tmp_path):
    ridge = NO_BARRIER[::-1].copy()
    ridge[3] = 0.5
    runs = both(tmp_path, CALM, ridge)
    result = verdicts(runs)
    assert [result[name] for name in ("jump-at-the-switch", "no-barrier", "large-batches-sharper")] == ["fails"] * 3
    # Longer parts have a claim of their own and do not enter the others.
    more = verdicts([*both(tmp_path, JUMPING, NO_BARRIER, steps=40), *runs])
    assert more.pop("no-barrier-at-lower-loss") == "holds"
    assert more == {name: verdict for name, verdict in result.items() if name in more}


def test_numbers_of_one_seed(tmp_path):
    runs = both(tmp_path, JUMPING, NO_BARRIER)[:2]
    (parts,) = s_basin.parts_by_seed(runs).values()
    assert s_basin.jump(parts, "train_loss") == pytest.approx((0.01, 0.8))
    assert s_basin.jump(parts, "train_accuracy") == pytest.approx((math.exp(-0.01), math.exp(-0.8)))
    assert asymmetry(parts.small.spectrum("line")) == pytest.approx((5.49 - 0.245) / (5.49 + 0.245))


def test_half_a_pair_is_no_evidence(tmp_path):
    runs = both(tmp_path, JUMPING, NO_BARRIER)[::2]
    assert set(verdicts(runs).values()) == {"not run"}
    for function in (s_basin.draw, s_basin.tabulate):
        with pytest.raises(InputError, match="no seed has finished both parts"):
            function(runs)
