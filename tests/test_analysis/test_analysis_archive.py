"""Finished runs packed into archives and read again."""

import lzma
import tarfile

import pytest
from fabricated_runs import write_run

from hessflat.analysis.results import load_run
from hessflat.cli import archive as command
from hessflat.cli.app import COMMANDS
from hessflat.runs.archive import finished_below, pack, unpack, unpacked
from hessflat.runs.run_folder import write_manifest
from hessflat.utils.errors import DamagedError, InputError


@pytest.fixture
def folders(tmp_path):
    """Two finished runs of one experiment, with files that an archive leaves out."""
    made = [write_run(tmp_path, seed=seed) for seed in (0, 1)]
    for folder in made:
        write_manifest(folder, command="python -m hessflat sweep --config=c:small --root=/home/me --workers=2")
        (folder / "checkpoints" / "3").mkdir(parents=True)
    return made


def test_a_run_is_read_from_an_archive_as_from_its_folder(folders, tmp_path):
    pack(folders, tmp_path / "all" / "toy-smoke.tar.xz")
    with unpacked(tmp_path / "all") as root:
        for folder in folders:
            before, after = load_run(folder), load_run(root / folder.relative_to(tmp_path / "runs"))
            assert before.path == after.path
            assert (before.config, before.metrics) == (after.config, after.metrics)
            assert after.manifest["command"] == "python -m hessflat sweep --config=c:small"
            assert {**before.manifest, "command": ""} == {**after.manifest, "command": ""}
            for path in (folder / "spectra").iterdir():
                assert path.read_bytes() == (after.folder / "spectra" / path.name).read_bytes()
            assert not (after.folder / "checkpoints").exists()
    assert not root.exists()


def test_equal_runs_give_equal_bytes_and_any_tar_reads_them(folders, tmp_path):
    one, other = tmp_path / "1.tar.xz", tmp_path / "2.tar.xz"
    pack(folders, one)
    pack(folders[::-1], other)
    assert one.read_bytes() == other.read_bytes()
    with tarfile.open(one) as tar:
        assert {name.split("/")[1] for name in tar.getnames()} == {folder.name for folder in folders}


def test_what_cannot_be_packed_or_read_is_one_line(folders, tmp_path):
    path = tmp_path / "all" / "toy-smoke.tar.xz"
    with pytest.raises(InputError, match="no archive"), unpacked(tmp_path):
        pass
    pack(folders, path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(DamagedError, match="is damaged"):
        unpack(path, tmp_path / "out")
    path.write_bytes(lzma.compress(b"no tar"))
    with pytest.raises(DamagedError, match="is damaged"):
        unpack(path, tmp_path / "out")
    (folders[0] / "metrics.jsonl").write_text("")
    with pytest.raises(DamagedError, match=r"metrics\.jsonl is altered"):
        pack(folders, path)
    write_manifest(folders[1], status="running")
    with pytest.raises(InputError, match="is not finished"):
        pack(folders[1:], path)
    assert finished_below(tmp_path / "runs") == {f"{folders[0].parent.name}-smoke.tar.xz": folders[:1]}


def test_the_command_packs_each_experiment_and_scale(folders, tmp_path, capsys):
    assert "archive" in COMMANDS
    command.main([f"--root={tmp_path / 'runs'}", f"--out={tmp_path / 'out'}"])
    (path,) = (tmp_path / "out").iterdir()
    assert f"{path}: 2 runs" in capsys.readouterr().out
    with pytest.raises(InputError, match="no finished run of s_width"):
        command.main([f"--root={tmp_path / 'runs'}", f"--out={tmp_path / 'out'}", "--exp=s_width"])
