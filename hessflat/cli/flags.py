"""Arguments of the commands: flags of absl, written `--name=value`, each of which may be given once."""

from collections.abc import Mapping, Sequence

from absl import flags

from hessflat.utils.errors import InputError


def parse(argv: Sequence[str], defaults: Mapping[str, str | None]) -> tuple[dict[str, str], list[str]]:
    """The values of a command's own flags by name, and the `--config.name=value` arguments as they are.

    Args:
        argv: what stands after the command.
        defaults: the command's flags; None marks one that must be given.

    Raises:
        InputError: an unknown flag, with the nearest right one, a flag that is given twice, one that is missing.
    """
    names = [argument.partition("=")[0] for argument in argv]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"{name} is given twice; leave one out")
    values = flags.FlagValues()
    for name, default in defaults.items():
        flags.DEFINE_string(name, default, "", flag_values=values)
    try:
        rest = values(["hessflat", *(argument for argument in argv if not argument.startswith("--config."))])[1:]
    except flags.Error as error:
        raise InputError(str(error)) from error
    if rest:
        raise InputError(f"arguments are written --name=value, got {rest[0]!r}")
    own = {name: values[name].value or "" for name in defaults}
    for name, default in defaults.items():
        if default is None and not own[name]:
            raise InputError(f"--{name}=… is missing; it must be given")
    return own, [argument for argument in argv if argument.startswith("--config.")]
