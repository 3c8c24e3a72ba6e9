"""A command in one of several processes whose clocks run apart, and one of which may fail: `python child.py COMMAND …`.

`$FAIL` is the number of the process that finds no data.
"""

import os
import sys
import time

from hessflat import data
from hessflat.cli import app
from hessflat.utils.errors import InputError

number = int(os.environ.get("JAX_PROCESS_ID", "0"))
clock, load = time.monotonic, data.load
time.monotonic = lambda: (1 + 2 * number) * clock()


def missing(*arguments, **options):
    raise InputError(f"no data in process {number}; bring them")


if os.environ.get("FAIL") == str(number):
    data.load = missing
app.run(sys.argv[1:])
