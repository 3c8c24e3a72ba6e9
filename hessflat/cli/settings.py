"""Every setting of a run in a line: `python -m hessflat settings`."""

from collections.abc import Sequence

from hessflat import config
from hessflat.runs import schema
from hessflat.utils.errors import InputError


def main(argv: Sequence[str]) -> None:
    """Print name, default, meaning and range of every setting."""
    if argv:
        raise InputError(f"settings takes no arguments, got {argv[0]!r}")
    for name, setting in config.flatten(config.schema(schema.RunConfig)).items():
        print(f"{'--config.' + name:44} {setting.default!r:32} {setting.doc}; {setting.rule.says}")
