"""Finished runs packed into archives and read again."""

import contextlib
import io
import lzma
import tarfile
from decimal import Context

import numpy as np
import pytest
from fabricated_runs import write_run

from hessflat.analysis.results import load_run
from hessflat.cli import archive as command
from hessflat.cli.app import COMMANDS
from hessflat.runs.archive import finished_below, narrowed, pack, unpack, unpacked
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
            assert before.config == after.config
            assert [list(line) for line in before.metrics] == [list(line) for line in after.metrics]
            for line, kept in zip(before.metrics, after.metrics, strict=True):
                for name, value in line.items():
                    rounded = Context(prec=6).create_decimal_from_float(value) if isinstance(value, float) else value
                    assert kept[name] == (rounded if rounded is None else type(value)(rounded)), name
            assert after.manifest["command"] == "python -m hessflat sweep --config=c:small"
            others = {"command": "", "digests": {}}
            assert before.manifest | others == after.manifest | others
            assert before.manifest["digests"].keys() == after.manifest["digests"].keys()
            for path in (folder / "spectra").iterdir():
                with np.load(path) as arrays, np.load(after.folder / "spectra" / path.name) as stored:
                    assert arrays.files == stored.files
                    for name, array in arrays.items():
                        assert stored[name].dtype != np.float64
                        np.testing.assert_allclose(stored[name], array, rtol=6.2e-5)
            assert not (after.folder / "checkpoints").exists()
    assert not root.exists()


def test_with_all_digits_files_are_kept_as_they_are(folders, tmp_path):
    pack(folders, tmp_path / "toy-smoke.tar.xz", all_digits=True)
    for folder, kept in zip(folders, sorted(unpack(tmp_path / "toy-smoke.tar.xz", tmp_path / "out")), strict=True):
        before, after = load_run(folder), load_run(kept)
        assert before.manifest["digests"] == after.manifest["digests"]


def test_equal_runs_give_equal_bytes_and_any_tar_reads_them(folders, tmp_path):
    one, other = tmp_path / "1.tar.xz", tmp_path / "2.tar.xz"
    pack(folders, one)
    pack(folders[::-1], other)
    assert one.read_bytes() == other.read_bytes()
    with tarfile.open(one) as tar:
        assert {name.split("/")[1] for name in tar.getnames()} == {folder.name for folder in folders}


def test_what_was_packed_and_unpacked_is_packed_to_the_same_bytes(folders, tmp_path):
    one, other = tmp_path / "1.tar.xz", tmp_path / "2.tar.xz"
    pack(folders, one)
    unpack(one, tmp_path / "again")
    pack([tmp_path / "again" / "/".join(folder.parts[-2:]) for folder in folders], other)
    assert one.read_bytes() == other.read_bytes()
    with pytest.raises(InputError, match="is there already; nothing was unpacked"):
        unpack(one, tmp_path / "again")


@pytest.mark.parametrize("kind", [np.float64, np.float32])
def test_arrays_keep_four_digits(kind):
    rng = np.random.default_rng(0)
    array = (rng.standard_normal((30, 7)) * 10.0 ** rng.integers(-30, 30, (30, 7))).astype(kind)
    kept = narrowed(array)
    assert kept.dtype == np.float32
    assert not np.any(kept.view(np.uint32) % 1024)
    assert np.max(np.abs(kept.astype(float) / array - 1)) < 6.2e-5
    exact = np.array([0, -1, 0.5, 2.0**13 + 1, np.inf, -np.inf, np.nan], kind)
    np.testing.assert_array_equal(narrowed(exact), exact)
    whole = np.array([3, 2.0**20 + 1], kind)
    np.testing.assert_array_equal(narrowed(whole), whole)
    assert narrowed(np.array(1e-39, kind)) == 0
    assert narrowed(np.array(2.5, kind)).shape == ()


def test_arrays_that_four_digits_of_float32_do_not_hold_stay():
    for array in (np.array([1e39, 1.0]), np.arange(3), np.array(["float32"]), np.array([1.1], np.float16)):
        assert narrowed(array) is array


def test_an_archive_cut_off_between_arrays_and_text_is_damaged(folders, tmp_path):
    path = tmp_path / "toy-smoke.tar.xz"
    pack(folders, path)
    content = path.read_bytes()
    second = content.index(b"\xfd7zXZ\0", 1)
    path.write_bytes(content[:second])
    with pytest.raises(DamagedError, match="has no manifest"):
        unpack(path, tmp_path / "out")


@pytest.mark.parametrize("name", ["/e/run/manifest.json", "e/../../run/manifest.json"])
def test_no_name_in_an_archive_leads_out_of_the_folder(name, tmp_path):
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w") as tar:
        entry = tarfile.TarInfo(name if name.startswith("e") else str(tmp_path) + name)
        entry.size = 2
        tar.addfile(entry, io.BytesIO(b"{}"))
    path = tmp_path / "toy-smoke.tar.xz"
    path.write_bytes(lzma.compress(whole.getvalue()))
    with contextlib.suppress(DamagedError):
        unpack(path, tmp_path / "out")
    assert {one for one in tmp_path.rglob("*") if not one.is_relative_to(tmp_path / "out")} == {path}


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
    command.main([f"--root={tmp_path / 'again'}", f"--unpack={tmp_path / 'out'}"])
    assert f"2 runs of {path.name}" in capsys.readouterr().out
    assert {load_run(folder).path for folder in folders} == {
        load_run(found.parent).path.replace("again", "runs", 1)
        for found in (tmp_path / "again").glob("*/*/manifest.json")
    }
    write_manifest(folders[1], status="running")
    with pytest.raises(InputError, match="holds 1 runs that are not among the finished ones"):
        command.main([f"--root={tmp_path / 'runs'}", f"--out={tmp_path / 'out'}"])
    command.main([f"--root={tmp_path / 'runs'}", f"--out={tmp_path / 'fewer'}"])
    assert "left out: 1 runs that are not finished" in capsys.readouterr().out
    with pytest.raises(InputError, match="no finished run of s_width"):
        command.main([f"--root={tmp_path / 'runs'}", f"--out={tmp_path / 'out'}", "--exp=s_width"])
