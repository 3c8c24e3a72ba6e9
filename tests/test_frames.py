"""Stored runs as data frames, beside their files."""

import io
import json
import sys
import tarfile
from pathlib import Path

import numpy as np
import pandas.testing
import pytest

import hessflat
from hessflat.report import frames
from hessflat.report.claims import read_claims
from hessflat.runs.archive import unpack
from hessflat.utils.errors import InputError

RESULTS = Path(__file__).parents[1] / "docs" / "results"
NAME = "g_loss_limit-paper.tar.xz"


@pytest.fixture(scope="module")
def loaded():
    """The frames of an archive, and its members."""
    with tarfile.open(RESULTS / NAME) as tar:
        members = {one.name: tar.extractfile(one).read() for one in tar.getmembers() if one.isfile()}
    return frames.load(RESULTS / NAME, RESULTS / "report"), members


def test_a_folder_of_archives_and_one_of_runs_are_loaded_alike(loaded, tmp_path):
    whole, _ = loaded
    unpack(RESULTS / NAME, tmp_path / "runs")
    (tmp_path / NAME).write_bytes((RESULTS / NAME).read_bytes())
    for folder in (tmp_path / "runs", tmp_path):
        found = frames.load(folder, RESULTS / "report")
        for one, other in zip(found, whole, strict=True):
            assert one.equals(other)
    experiment = frames.load(tmp_path / "runs" / NAME.partition("-")[0])
    assert experiment.steps.equals(whole.steps)
    one = frames.load(tmp_path / "runs" / whole.runs["run"][0]).runs
    pandas.testing.assert_frame_equal(one, whole.runs[:1][one.columns], check_dtype=False)
    # Settings that this run is older than.
    assert whole.runs[:1].drop(columns=one.columns).isna().all(axis=None)


def test_runs_and_steps_are_those_of_the_files(loaded):
    found, members = loaded
    names = {"/".join(name.split("/")[:2]) for name in members}
    assert set(found.runs["run"]) == names
    assert len(found.runs) == len(names) > 2
    by_run = found.runs.set_index("run")
    for name in names:
        config, manifest = (json.loads(members[f"{name}/{file}.json"]) for file in ("config", "manifest"))
        assert by_run.loc[name, "optim.lr"] == config["optim"]["lr"]
        assert by_run.loc[name, "num_params"] == manifest["num_params"]
        lines = [json.loads(line) for line in members[f"{name}/metrics.jsonl"].splitlines()]
        steps = found.steps[found.steps["run"] == name]
        assert list(steps["step"]) == [line["step"] for line in lines]
        for metric, value in lines[-1].items():
            last = steps[metric].iloc[-1]
            assert last == value or (value is None and np.isnan(last)), metric


def test_spectra_are_those_of_the_files(loaded):
    found, members = loaded
    kept = {name: content for name, content in members.items() if "/spectra/" in name}
    total = 0
    for name, content in kept.items():
        experiment, run, _, file = name.split("/")
        step, _, operator = file.removesuffix(".npz").partition("-")
        of_file = found.spectra[
            (found.spectra["run"] == f"{experiment}/{run}")
            & (found.spectra["step"] == int(step))
            & (found.spectra["operator"] == operator)
        ]
        with np.load(io.BytesIO(content)) as arrays:
            for key, values in arrays.items():
                if np.issubdtype(values.dtype, np.number):
                    column = of_file[of_file["array"] == key].sort_values("index")["value"]
                    np.testing.assert_array_equal(column, values.ravel())
                    total += values.size
    assert total == len(found.spectra) > 100


def test_claims_are_those_of_the_experiment(loaded):
    stored = read_claims(RESULTS / "report" / "claims.json")
    expected = [(one["claim"], one["verdict"]) for one in stored if one["experiment"] == "g_loss_limit"]
    claims = loaded[0].claims
    assert list(zip(claims["claim"], claims["verdict"], strict=True)) == expected


def test_what_cannot_be_loaded_is_one_line(tmp_path, monkeypatch):
    with pytest.raises(InputError, match=f"no runs in {tmp_path}; give a folder"):
        frames.load(tmp_path)
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(InputError, match=r"data frames need pandas; pip install 'hessflat\[frames\]'"):
        frames.load(tmp_path)


def test_the_package_has_it_by_name():
    assert hessflat.load is frames.load
    with pytest.raises(AttributeError, match="no attribute 'lod'"):
        hessflat.lod  # noqa: B018
