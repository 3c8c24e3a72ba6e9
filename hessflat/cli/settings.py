"""Every setting of a run in a line: `python -m hessflat settings`."""

from collections.abc import Sequence

from hessflat import config
from hessflat.cli import app
from hessflat.runs import schema
from hessflat.utils.errors import InputError


def main(argv: Sequence[str]) -> None:
    """Print name, default, meaning and range of every setting."""
    _, given = app.parse_flags(argv, {})
    if given:
        raise InputError(f"settings takes no arguments, got {given[0]!r}")
    for name, setting in config.flatten(config.schema(schema.RunConfig)).items():
        print(f"{'--config.' + name:44} {setting.default!r:32} {setting.doc}; {setting.rule.says}")
