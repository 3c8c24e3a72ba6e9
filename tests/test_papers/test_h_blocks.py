"""What the stored runs of h_blocks say, beside docs/language_models.md."""

from pathlib import Path

import numpy as np

from experiments.beyond.h_blocks import GROUPS, nats_learnt, sharpness
from hessflat.analysis.results import load_run

PAGE = (Path(__file__).parents[2] / "docs" / "language_models.md").read_text()


def test_stored_transformers_are_a_nat_below_the_unigram_entropy_and_the_page_has_their_numbers(stored_runs):
    runs = [load_run(path.parent) for path in sorted(stored_runs.glob("h_blocks/small-transformer-*/config.json"))]
    assert {run.setting("model.transformer.layers") for run in runs} == {4}
    for optimiser in ("adam", "sgd"):
        own = [run for run in runs if run.setting("optim.name") == optimiser]
        assert len({run.seed for run in own}) >= 3
        assert min(map(nats_learnt, own)) > 1
        loss = np.mean([run.final("test_loss") for run in own])
        sharp = [np.exp(np.mean([np.log(sharpness(run, group)) for run in own])) for group in GROUPS]
        cells = " | ".join(f"{1e3 * value:.2f}" for value in sharp)
        assert f"| {optimiser} | {loss:.3f} | {cells} |" in PAGE
