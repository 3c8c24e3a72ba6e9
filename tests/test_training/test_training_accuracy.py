"""Whole trainings on scikit-learn's digits reach the accuracy that they should."""

import pytest
import runs

MEASURED = [f"--config.measure.{name}=never" for name in ("spectra", "jacobian")]
MEASURED += ["--config.measure.performance=end"]


@pytest.mark.slow
def test_perceptron(tmp_path):
    chosen = runs.tiny(
        "--config.model.mlp.hidden=(100,)", "--config.train.epochs=30", "--config.optim.lr=0.1",
        "--config.optim.l2=1e-4", *MEASURED,
    )  # fmt: skip
    (folder,) = runs.run_all([chosen], tmp_path)
    last = runs.metrics(folder)[-1]
    assert last["test_accuracy"] > 0.96
    assert last["train_accuracy"] > 0.99


@pytest.mark.long
def test_narrow_resnet_with_batch_norm_mixup_and_sam(tmp_path):
    chosen = runs.tiny(
        "--config.model.name=resnet", "--config.model.resnet.width=8",
        "--config.train.epochs=12", "--config.optim.lr=0.05", "--config.optim.l2=5e-4", "--config.train.mixup=0.4",
        "--config.optim.sam_radius=0.05", "--config.train.batch_size=64", *MEASURED,
    )  # fmt: skip
    (folder,) = runs.run_all([chosen], tmp_path)
    last = runs.metrics(folder)[-1]
    assert last["test_accuracy"] > 0.95
    assert last["train_accuracy"] > 0.97
