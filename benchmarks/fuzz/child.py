"""A process that tries one case after another: it reads `SEED:KIND:NUMBER`, and writes what came of it as JSON.

python -m benchmarks.fuzz.child GIGABYTES
"""

import json
import os
import random
import resource
import sys
import tempfile
import warnings

import jax
import jax.numpy as jnp
from absl import logging

from benchmarks.cases import Outcome
from benchmarks.fuzz import calls, settings
from benchmarks.fuzz.outcomes import outcome_of

KINDS = {**calls.KINDS, **settings.KINDS}


def case_outcome(case: str) -> Outcome:
    """Draw a case from the seed that its name is, and try it."""
    kind = case.split(":", 1)[1].rpartition(":")[0]
    make, _ = KINDS[kind]
    return outcome_of(make(random.Random(case)))


def bound_memory(gigabytes: float) -> None:
    """Refuse this process more than so much memory beyond what it has taken by now."""
    with open("/proc/self/statm") as file:
        taken = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    limit = taken + int(gigabytes * 2**30)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def main() -> None:
    logging.set_verbosity(logging.FATAL)
    warnings.simplefilter("ignore")
    answers, sys.stdout = sys.stdout, sys.stderr
    jax.block_until_ready(jnp.ones(2) @ jnp.ones(2))
    if os.path.exists("/proc/self/statm"):
        bound_memory(float(sys.argv[1]))
    with tempfile.TemporaryDirectory(prefix="fuzz-") as place:
        os.environ["HESSFLAT_CACHE"] = "0"
        settings.PLACE.append(place)
        print(json.dumps("ready"), file=answers, flush=True)
        for line in sys.stdin:
            print(json.dumps(case_outcome(json.loads(line))), file=answers, flush=True)


if __name__ == "__main__":
    main()
