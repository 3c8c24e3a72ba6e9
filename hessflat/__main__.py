"""The command line: `python -m hessflat COMMAND --name=value`."""

import sys

from hessflat.cli import app

if __name__ == "__main__":
    app.run(sys.argv[1:])
