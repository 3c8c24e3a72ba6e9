"""`python restored.py FOLDER OUT` writes what process I has of every checkpoint of a run to OUT-I.json, by digests."""

import json
import sys
from pathlib import Path

import jax
import numpy as np
from absl import logging

from hessflat.runs import checkpoints
from hessflat.runs.jobs import compiled
from hessflat.utils import processes
from hessflat.utils.files import checksum

logging.set_verbosity(logging.FATAL)  # as commands do
processes.start()
folder = Path(sys.argv[1])
config = checkpoints.stored_config(folder)
found = {}
with checkpoints.reading(folder / "checkpoints") as manager:
    for step in checkpoints.steps(manager):
        position = checkpoints.stored_position(config, compiled(config).trainer, manager, step)
        leaves = jax.tree.leaves(position)
        assert all(len(leaf.devices()) == jax.device_count() for leaf in leaves)
        found[step] = checksum({str(i): np.asarray(leaf) for i, leaf in enumerate(leaves)})
Path(f"{sys.argv[2]}-{jax.process_index()}.json").write_text(json.dumps(found))
