"""What the tab key completes: `hessflat completion bash`, `zsh` or `fish` prints the script for a shell.

A script holds the commands, flags, experiments, scales and configurations that there are when it is made.
"""

import importlib
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import NamedTuple

from hessflat.cli import app, experiment
from hessflat.config import SCALES
from hessflat.utils.errors import InputError, require_known

# Flags whose value is a folder.
FOLDERS = ("cache", "from", "out", "root", "run", "unpack")


class Command(NamedTuple):
    """What stands after a command: `flags` has their values, none where any text is one; `words` stand by themselves.

    `switches` are the flags that are 0 or 1, which may stand without a value.
    """

    flags: Mapping[str, Sequence[str]]
    switches: Sequence[str]
    words: Sequence[str]


def main(argv: Sequence[str]) -> None:
    """Put the script where the shell looks for it; print it again when an experiment or a configuration is added."""
    own, settings = app.parse_flags(argv, {"shell": None})
    if settings:
        raise InputError(f"completion takes no settings, got {settings[0]}")
    require_known("shell", [own["shell"]], SHELLS)
    print(SHELLS[own["shell"]](commands()), end="")


def commands() -> dict[str, Command]:
    """Every command with its flags, as `--help` says them."""
    known = {
        "exp": experiment.names(),
        "config": configurations(),
        "scale": list(SCALES),
        "launch": ["local", "slurm"],
        "shell": list(SHELLS),
    }
    found = {}
    for name in app.COMMANDS:
        module = importlib.import_module(f"hessflat.cli.{name}")
        flags = _flags(module)
        required = [flag for flag, default in flags.items() if default is None]
        words = known.get(required[0], []) if len(required) == 1 else getattr(module, "WORDS", [])
        switches = [flag for flag, default in flags.items() if default == "0"]
        found[name] = Command({flag: known.get(flag, []) for flag in flags if flag not in switches}, switches, words)
    return found


def _flags(module: ModuleType) -> Mapping[str, str | None]:
    """The flags of a command with their defaults."""
    try:
        module.main(["--help"])
    except app.HelpAsked as asked:
        return asked.defaults
    raise TypeError(f"{module.__name__} has a help of its own")


def configurations() -> list[str]:
    """`g_mlp`, `g_mlp:smoke` and so on: every configuration, with each scale that it has."""
    found = []
    for path in sorted((app.home() / "configs").rglob("*.py")):
        module = app.load_module(path)
        if hasattr(module, "get_config"):
            found += [path.stem, *(f"{path.stem}:{scale}" for scale in app.scales_of(module))]
    return found


def bash(found: Mapping[str, Command]) -> str:
    """The script for Bash, which needs no other package."""
    cases = []
    for name, command in found.items():
        for flag, values in command.flags.items():
            full = " ".join(f"--{flag}={value}" for value in values)
            if flag in FOLDERS:
                full = f'$(compgen -d -P "--{flag}=" -- "${{current#*=}}")'
            cases.append(f'    {name}:--{flag}=*) words="{full}" ;;')
        flags = [*(f"--{flag}=" for flag in command.flags), *(f"--{flag}" for flag in command.switches)]
        cases += [
            f'    {name}:-*) words="{" ".join([*flags, "--help"])}" ;;',
            f'    {name}:*) words="{" ".join(command.words)}" ;;',
        ]
    return f"""# Completion of hessflat for Bash.
_hessflat() {{
  local line current command words cut=""
  line=${{COMP_LINE:0:COMP_POINT}}
  current=${{line##*[[:space:]]}}
  command=${{COMP_WORDS[1]}}
  if (( COMP_CWORD == 1 )); then command=""; fi
  case $command:$current in
    :*) words="{" ".join([*found, "--help"])}" ;;
{chr(10).join(cases)}
  esac
  # Where Bash has broken the word, it replaces what is after the break alone.
  if [[ $current == *[=:]* && $COMP_WORDBREAKS == *=* ]]; then cut=${{current%"${{current##*[=:]}}"}}; fi
  COMPREPLY=($(compgen -W "$words" -- "$current"))
  if [[ ${{#COMPREPLY[@]}} == 1 && ${{COMPREPLY[0]}} == *= ]]; then compopt -o nospace 2> /dev/null; fi
  COMPREPLY=("${{COMPREPLY[@]#"$cut"}}")
}}
complete -F _hessflat hessflat
"""


def zsh(found: Mapping[str, Command]) -> str:
    """The script for Zsh, a file `_hessflat` in `$fpath`."""
    cases = []
    for name, command in found.items():
        for flag, values in command.flags.items():
            added = "_files -/" if flag in FOLDERS else f"compadd -- {' '.join(values)}"
            cases.append(f"    {name}:--{flag}=*) compset -P '*='; {added} ;;")
        with_value = " ".join(f"--{flag}=" for flag in command.flags)
        alone = " ".join(f"--{flag}" for flag in [*command.switches, "help"])
        cases += [
            f"    {name}:-*) compadd -S '' -- {with_value}; compadd -- {alone} ;;",
            f"    {name}:*) compadd -- {' '.join(command.words)} ;;",
        ]
    return f"""#compdef hessflat
# Completion of hessflat for Zsh.
_hessflat() {{
  local command=$words[2]
  if (( CURRENT == 2 )); then command=""; fi
  case $command:$PREFIX in
    :*) compadd -- {" ".join([*found, "--help"])} ;;
{chr(10).join(cases)}
  esac
}}
if [[ $zsh_eval_context[-1] == loadautofunc ]]; then _hessflat "$@"; else compdef _hessflat hessflat; fi
"""


def fish(found: Mapping[str, Command]) -> str:
    """The script for fish."""
    lines = ["# Completion of hessflat for fish.", "complete -c hessflat -f"]
    lines += [f"complete -c hessflat -n __fish_use_subcommand -a {name}" for name in found]
    for name, command in found.items():
        of = f"complete -c hessflat -n '__fish_seen_subcommand_from {name}'"
        lines += [f"{of} -a '{' '.join(command.words)}'"] if command.words else []
        for flag, values in command.flags.items():
            own = "'(__fish_complete_directories)'" if flag in FOLDERS else f"'{' '.join(values)}'"
            lines.append(f"{of} -l {flag} -x -a {own}")
        lines += [f"{of} -l {flag}" for flag in command.switches]
    return "\n".join(lines) + "\n"


SHELLS: Mapping[str, Callable[[Mapping[str, Command]], str]] = {"bash": bash, "zsh": zsh, "fish": fish}
