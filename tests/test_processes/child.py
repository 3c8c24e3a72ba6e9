"""A command in one of several processes whose clocks run apart, and one of which may fail: `python child.py COMMAND …`.

`$FAIL` is the number of the process that finds no data.
"""

import os
import sys
import time

from hessflat import data
from hessflat.cli import app
from hessflat.runs import loop
from hessflat.utils.errors import InputError

number = int(os.environ.get("JAX_PROCESS_ID", "0"))
clock, load = time.monotonic, data.load
time.monotonic = lambda: (1 + 2 * number) * clock()
loop.SECONDS_PER_BLOCK = 0.01  # a few steps, so that clocks decide where blocks end


def missing(*arguments, **options):
    raise InputError(f"no data in process {number}; bring them")


if os.environ.get("FAIL") == str(number):
    data.load = missing
app.run(sys.argv[1:])
