"""What one of several processes reads of a data set."""

import jax
import numpy as np
import pytest
import runs

from hessflat.data import cache, load
from hessflat.data.loading import Rows
from hessflat.runs import jobs
from hessflat.utils import hardware, processes

OPTIONS = {"validation_size": 6, "test_size": 5, "label_noise": 0.2}


@pytest.fixture
def stored(tmp_path, monkeypatch):
    """A data set of images in the cache."""
    monkeypatch.setenv("HESSFLAT_DATA", str(tmp_path))
    random = np.random.default_rng(0)
    arrays = {
        f"{part}_{kind}": values
        for part, number in (("train", 40), ("test", 8))
        for kind, values in (
            ("inputs", random.integers(0, 256, (number, 3, 3, 2), np.uint8)),
            ("labels", np.arange(number, dtype=np.int64) % 4),
        )
    }
    facts = {"name": "images", "version": "1", "num_classes": 4, "max_value": 255.0, "description": "images"}
    return arrays, cache.write(arrays, facts)


def test_arrays_of_the_cache_are_mapped_as_they_were_stored(stored):
    arrays, path = stored
    read, _ = cache.read(path)
    for name, array in arrays.items():
        np.testing.assert_array_equal(read[name], array)
        assert (read[name].dtype, read[name].flags.writeable) == (array.dtype, False)
        assert isinstance(read[name].base, np.memmap)


@pytest.mark.parametrize("scaling", ["unit", "standardised", "overall"])
def test_each_of_several_processes_reads_the_examples_that_it_asks_for(stored, monkeypatch, scaling):
    whole = load("images", scaling=scaling, **OPTIONS)
    monkeypatch.setattr(processes, "are_several", lambda: True)
    monkeypatch.setattr(processes, "is_writer", lambda: False)
    parts = load("images", scaling=scaling, **OPTIONS)
    assert parts.checksum == whole.checksum
    for part, expected in ((parts.train, whole.train), (parts.validation, whole.validation), (parts.test, whole.test)):
        inputs = part["inputs"]
        assert isinstance(inputs, Rows)
        assert isinstance(inputs.stored.base, np.memmap)
        assert (inputs.shape, inputs.dtype) == (expected["inputs"].shape, np.float32)
        np.testing.assert_array_equal(inputs[2:5, :, 1:], expected["inputs"][2:5, :, 1:])
        np.testing.assert_array_equal(inputs[:], expected["inputs"])
        np.testing.assert_array_equal(part["labels"], expected["labels"])


def test_of_tokens_each_of_several_processes_reads_those_that_it_asks_for(monkeypatch):
    whole = load("grammar", scaling="raw", test_size=5)
    monkeypatch.setattr(processes, "are_several", lambda: True)
    parts = load("grammar", scaling="raw", test_size=5)
    assert parts.checksum == whole.checksum
    for part, expected in ((parts.train, whole.train), (parts.test, whole.test)):
        assert isinstance(part["inputs"], Rows)
        assert part["inputs"].dtype == part["inputs"][2:5].dtype == np.int32
        np.testing.assert_array_equal(part["inputs"][2:5, 3:], expected["inputs"][2:5, 3:])
        for name in ("labels", "weights"):
            np.testing.assert_array_equal(part[name], expected[name])


def test_what_is_compressed_or_cut_short_is_damaged(stored):
    arrays, path = stored
    archive = path.with_suffix(".npz")
    whole = archive.read_bytes()
    np.savez_compressed(archive, **arrays)
    with pytest.raises(ValueError, match="is damaged"):
        cache.read(path)
    archive.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="is damaged"):
        cache.read(path)


def test_large_splits_are_spread_whatever_their_number(monkeypatch):
    """Of 128 examples each of 8 devices holds 16; of 36, 5 at most."""
    config = runs.tiny("--config.data.train_size=128", "--config.data.validation_size=36").data
    whole = jobs._device_splits.__wrapped__(config, 8, False)
    monkeypatch.setattr(jobs, "_WHOLE", 0)
    spread = jobs._device_splits.__wrapped__(config, 8, False)
    for name, of_each in (("train", 16), ("validation", 5)):
        assert [len(shard.data) for shard in whole[name]["inputs"].addressable_shards] == [
            len(whole[name]["inputs"])
        ] * 8
        for leaf in jax.tree.leaves(spread[name]):
            assert [len(shard.data) for shard in leaf.addressable_shards] == [of_each] * 8
        for key, array in spread[name].items():
            np.testing.assert_array_equal(array, whole[name][key])
        np.testing.assert_array_equal(
            hardware.first_examples(spread[name], 7)["inputs"], np.asarray(whole[name]["inputs"])[:7]
        )
