"""What the tab key completes, asked of each shell that is installed."""

import re
import shlex
import shutil
import subprocess

import pytest

from hessflat.cli import app, completion, experiment
from hessflat.utils.errors import InputError

LINES = {
    "hessflat arch": {"archive"},
    "hessflat completion ": {"bash", "fish", "zsh"},
    "hessflat data l": {"list"},
    "hessflat experiment g_ml": {"g_mlp", "g_mlp_size"},
    "hessflat experiment --exp=g_ml": {"g_mlp", "g_mlp_size"},
    "hessflat reproduce --scale=s": {"small", "smoke"},
    "hessflat reproduce --launch=": {"local", "slurm"},
    "hessflat report --se": {"--serve"},
    "hessflat sweep --config=m_weight_decay:m": {"medium"},
    "hessflat plan --topo": {"--topology"},
    "hessflat archive --unp": {"--unpack"},
    "hessflat settings --exp=": set(),
}
# Stand-ins for what Zsh has while a key is pressed: they print what would be offered.
ZSH = """
compdef() { : }
compset() { PREFIX=${PREFIX#*=} }
_files() { : }
compadd() {
  while [[ $1 != -- ]]; do shift; done; shift
  for one in $@; do if [[ $one == $PREFIX* ]]; then print -r -- $one; fi; done
}
"""


@pytest.fixture(scope="module")
def scripts(tmp_path_factory):
    """The script of each shell."""
    folder, commands = tmp_path_factory.mktemp("scripts"), completion.commands()
    for shell, written in completion.SHELLS.items():
        (folder / shell).write_text(written(commands))
    return folder


def offered(shell, script, line):
    """What a shell offers to complete a line, without what is before the last = or :."""
    words = line.split(" ")
    if shell == "bash":  # it breaks words at = and :
        broken = [part for word in words for part in (re.findall(r"[=:]|[^=:]+", word) or [""])]
        asking = f"""source {script}; COMP_LINE={shlex.quote(line)}; COMP_POINT={len(line)}
            COMP_WORDS=({shlex.join(broken)}); COMP_CWORD={len(broken) - 1}; _hessflat
            printf '%s\\n' "${{COMPREPLY[@]}}" """
    elif shell == "zsh":
        asking = f"{ZSH}\nsource {script}; words=({shlex.join(words)}); CURRENT={len(words)}\n"
        asking += f"PREFIX={shlex.quote(words[-1])}; _hessflat"
    else:
        asking = f"source {script}; complete -C {shlex.quote(line)}"
    made = subprocess.run([shell, "-c", asking], capture_output=True, text=True, check=True, timeout=60)
    assert made.stderr == ""
    found = [one.partition("\t")[0] for one in made.stdout.splitlines() if one]
    assert len(found) == len(set(found))
    return {re.split("[=:]", one.removesuffix("="))[-1] for one in found}


@pytest.mark.parametrize("line", LINES)
@pytest.mark.parametrize("shell", completion.SHELLS)
def test_a_shell_completes(shell, line, scripts):
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell} here")
    assert offered(shell, scripts / shell, line) == LINES[line]


@pytest.mark.parametrize("shell", ["bash", "fish"])
def test_a_shell_completes_folders(shell, scripts, tmp_path):
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell} here")
    (tmp_path / "runs-here").mkdir()
    (tmp_path / "runs-file").write_text("")
    (found,) = offered(shell, scripts / shell, f"hessflat report --root={tmp_path}/ru")
    assert found.rstrip("/") == str(tmp_path / "runs-here")


@pytest.mark.parametrize("shell", completion.SHELLS)
def test_a_script_has_every_command_with_every_flag_of_its_help(shell, scripts, capsys):
    script = (scripts / shell).read_text()
    for name in app.COMMANDS:
        with pytest.raises(SystemExit):
            app.run([name, "--help"])
        for flag in re.findall(r"^  --(\w+)=", capsys.readouterr().out, re.MULTILINE):
            pattern = rf"from {name}' -l {flag}\b" if shell == "fish" else rf"^ +{name}:-\*\).*--{flag}\b"
            assert re.search(pattern, script, re.MULTILINE), (name, flag)
    assert set(experiment.names()) <= set(re.findall(r"\w+", script))


def test_another_shell_is_one_line():
    with pytest.raises(InputError, match=r"unknown shell.*'tcsh'"):
        completion.main(["tcsh"])
    with pytest.raises(InputError, match="takes no settings"):
        completion.main(["bash", "--config.seed=1"])
