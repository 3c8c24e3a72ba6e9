"""The cache: round trip, damage, versions and folders that cannot be written."""

import errno
import json

import numpy as np
import pytest

from hessflat.data import cache, load, prepared_names
from hessflat.utils.errors import InputError
from hessflat.utils.files import checksum


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HESSFLAT_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


def store(version="1.0.0", name="tiny", seed=0):
    random = np.random.default_rng(seed)
    arrays = {
        "train_inputs": random.integers(0, 256, (30, 4, 4, 3)).astype(np.uint8),
        "train_labels": (np.arange(30) % 3).astype(np.int32),
        "test_inputs": random.integers(0, 256, (9, 4, 4, 3)).astype(np.uint8),
        "test_labels": (np.arange(9) % 3).astype(np.int32),
    }
    facts = {"name": name, "version": version, "num_classes": 3, "max_value": 255.0, "description": f"{name} {version}"}
    return arrays, cache.write(arrays, facts)


def test_what_is_written_is_loaded(folder):
    arrays, path = store()
    assert path == folder / "tiny-1.0.0.json"
    data = load("tiny", scaling="unit", order="stored", validation_fraction=0.0)
    np.testing.assert_array_equal(data.train["inputs"], (arrays["train_inputs"] / np.float32(255)))
    np.testing.assert_array_equal(data.test["labels"], arrays["test_labels"])
    assert [path.name for path in sorted(folder.iterdir())] == ["tiny-1.0.0.json", "tiny-1.0.0.npz"]


def test_prepared_lists_names(folder):
    assert prepared_names() == []
    store()
    store(name="other/large")
    assert prepared_names() == ["other/large", "tiny"]
    assert load("other/large").num_classes == 3


def test_newest_version_is_found(folder):
    store("1.9.0", seed=1)
    store("1.10.0")
    assert load("tiny").description.startswith("tiny 1.10.0")


def test_settings_are_refused(folder):
    store()
    with pytest.raises(InputError, match="'tiny' has no settings of its own, got seed"):
        load("tiny", {"seed": 3})


def truncate(path):
    path.write_bytes(path.read_bytes()[:500])


def flip_a_byte(path):
    content = bytearray(path.read_bytes())
    content[400] ^= 1
    path.write_bytes(content)


def change_checksum(path):
    facts_path = path.with_suffix(".json")
    facts_path.write_text(json.dumps({**json.loads(facts_path.read_text()), "sha256": "0"}))


@pytest.mark.parametrize(
    "damage",
    [
        truncate,
        flip_a_byte,
        change_checksum,
        lambda path: path.unlink(),
        lambda path: path.with_suffix(".json").write_text("{"),
    ],
)
def test_damage_is_one_line_that_says_what_to_do(folder, damage):
    _, path = store()
    damage(path.with_suffix(".npz"))
    with pytest.raises(
        InputError, match=r"data set 'tiny' at .* is damaged; run again: .*hessflat data prepare tiny"
    ) as refusal:
        load("tiny")
    assert "\n" not in str(refusal.value)


def test_full_disk_leaves_nothing_behind(folder, monkeypatch):
    def full(*arguments, **arrays):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(InputError, match=r"no space left in .*; free some or set HESSFLAT_DATA"):
        store()
    assert list(folder.iterdir()) == []


def test_unwritable_folder_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HESSFLAT_DATA", str(tmp_path / "file" / "data"))
    with pytest.raises(InputError, match=r"cannot write to .*; set HESSFLAT_DATA to another folder"):
        store()


def test_checksum_depends_on_content_shape_and_type():
    array = np.arange(6, dtype=np.uint8)
    others = (array.reshape(2, 3), array.astype(np.int16), array + 1, np.zeros(0, np.uint8))
    assert len({checksum({"a": other}) for other in (array, *others)}) == 5
    assert checksum({"a": array, "b": array}) == checksum({"b": array, "a": array})
