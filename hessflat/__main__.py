"""The command line: `python -m hessflat COMMAND --name=value`."""

import sys

try:
    from hessflat.cli import app
except ModuleNotFoundError as error:
    if str(error.name).startswith("hessflat"):
        raise
    sys.exit(
        f"error: {sys.executable} has no {error.name}, which hessflat needs; take the Python that it is installed for, "
        "such as .venv/bin/python, or pip install it"
    )

if __name__ == "__main__":
    app.run(sys.argv[1:])
