"""Stored runs that differ from planned ones in their seeds alone are the pilots of these."""

import json
import shutil

from hessflat.cli import experiment
from hessflat.runs import run_folder, schema


def store(job, folder, status="done", **changed):
    """A run folder of a job's configuration, but for what is changed, as if it had been run."""
    config = schema.replace(job.config, changed)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(schema.plain(config)))
    (folder / "metrics.jsonl").write_text('{"step": 3}\n')
    run_folder.write_manifest(folder, status=status, format=run_folder.FORMAT, steps=3)
    run_folder.write_manifest(folder, digests=run_folder.digests_until(folder, 10**9))


def test_pilots_differ_in_their_seeds_alone(tmp_path):
    one = experiment.load("g_loss_limit")
    job = experiment.make_jobs(one, "smoke", tmp_path)[0]
    home = job.folder.parent
    store(job, job.folder)
    store(job, home / "smoke-a", seed=71, **{"data.split_seed": 5, "measure.seed": 6})
    store(job, home / "smoke-b", seed=72, **{"optim.lr": 0.123})
    store(job, home / "smoke-c", seed=73, status="stopped")
    store(job, home / "small-d", seed=74)
    found = experiment.collect(one, "smoke", tmp_path)
    assert [run.seed for run in found.pilots] == [71]
    assert ([run.folder for run in found.runs], found.seeds) == ([job.folder], 1)
    # What is no run is passed over.
    (home / "smoke-a" / "config.json").write_text("{")
    shutil.rmtree(home / "smoke-b")
    assert experiment.collect(one, "smoke", tmp_path).pilots == []
