"""Arguments of the commands, `name=value` in any order, the names and values checked with a hint for a wrong one."""

from collections.abc import Mapping, Sequence

from hessflat.utils.errors import InputError, require_known


def parse(arguments: Sequence[str], defaults: Mapping[str, str | None]) -> tuple[dict[str, str], list[str]]:
    """Split `--name=value` arguments into those of the command and `--config.…` ones.

    Args:
        arguments: what stands after the command.
        defaults: the command's own names; None marks one that must be given.
    """
    own: dict[str, str] = {name: value for name, value in defaults.items() if value is not None}
    settings = []
    seen: set[str] = set()
    for argument in arguments:
        if argument.partition("=")[0] in seen:
            raise InputError(f"{argument.partition('=')[0]} is given twice; leave one out")
        seen.add(argument.partition("=")[0])
        if argument.startswith("--config."):
            settings.append(argument)
            continue
        name, equals, value = argument.removeprefix("--").partition("=")
        if not argument.startswith("--") or not equals:
            raise InputError(f"arguments are written --name=value, got {argument!r}")
        require_known("argument", [f"--{name}"], [f"--{known}" for known in defaults])
        own[name] = value
    for name in defaults:
        if not own.get(name) and defaults[name] is None:
            raise InputError(f"--{name}=… is missing; it must be given")
    return own, settings
