"""Preparation through TFDS from tiny files in the published formats; no network."""

import importlib.util
import io
import pickle
import tarfile
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow_datasets as tfds
from original_files import known, mnist_files, write
from PIL import Image
from rich.progress import Progress

from hessflat.cli.data import main
from hessflat.data import cache as stored
from hessflat.data import load, prepared_names
from hessflat.data.prepare import _read_back, prepare
from hessflat.data.published import PUBLISHED, with_digests
from hessflat.utils.errors import InputError


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HESSFLAT_DATA", str(tmp_path / "cache"))

    def no_network(*arguments, **settings):
        raise OSError("no network in tests")

    monkeypatch.setattr(urllib.request, "urlopen", no_network)
    return tmp_path / "cache"


def cifar_arrays(counts, seed=0):
    random = np.random.default_rng(seed)
    images = [random.integers(0, 256, (count, 3072)).astype(np.uint8) for count in counts]
    return images, [random.integers(0, 10, count).astype(np.uint8) for count in counts]


def channels_last(rows):
    return rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)


def test_mnist_from_a_folder(tmp_path, cache, capsys):
    files, arrays = mnist_files()
    write(tmp_path / "files" / "MNIST", files)
    path = prepare("mnist", tmp_path / "files", published=known("mnist", 0, files))
    assert "40 train and 20 test images of 28x28x1" in capsys.readouterr().out
    assert path == cache / "mnist-3.0.1.json"
    assert sorted(entry.name for entry in cache.iterdir()) == ["mnist-3.0.1.json", "mnist-3.0.1.npz"]
    data = load("mnist", scaling="raw", order="stored", validation_fraction=0.0)
    for split, (images, labels) in arrays.items():  # in the published order, though TFDS shuffles by a hash
        np.testing.assert_array_equal(getattr(data, split)["inputs"].squeeze(-1), images.reshape(-1, 28, 28))
        np.testing.assert_array_equal(getattr(data, split)["labels"], labels)


def test_preparing_again_does_nothing_until_it_is_damaged(tmp_path, cache, capsys):
    files, _ = mnist_files()
    write(tmp_path / "files", files)
    published = known("mnist", 0, files)
    path = prepare("mnist", tmp_path / "files", published=published)
    assert prepare("mnist", None, published=published) == path
    assert "mnist is already prepared" in capsys.readouterr().out
    path.with_suffix(".npz").write_bytes(b"")
    prepare("mnist", tmp_path / "files", published=published)
    assert "is damaged; preparing it again" in capsys.readouterr().out
    assert len(load("mnist").test["labels"]) == 20


def cifar_binary_files(images, labels):
    names = [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]
    rows = (np.concatenate([of[:, None], image], 1) for image, of in zip(images, labels, strict=True))
    return dict(zip(names, (row.tobytes() for row in rows), strict=True))


def assert_cifar(images, labels):
    data = load("cifar10", scaling="raw", order="stored", validation_fraction=0.0)
    np.testing.assert_array_equal(data.train["inputs"], channels_last(np.concatenate(images[:5])))
    np.testing.assert_array_equal(data.train["labels"], np.concatenate(labels[:5]))
    np.testing.assert_array_equal(data.test["inputs"], channels_last(images[5]))
    np.testing.assert_array_equal(data.test["labels"], labels[5])


def test_cifar_batches_come_back_in_their_order(tmp_path):
    images, labels = cifar_arrays((4, 5, 6, 7, 8, 9))
    files = cifar_binary_files(images, labels)
    write(tmp_path / "files" / "cifar-10-batches-bin", files)
    prepare("cifar10", tmp_path / "files", published=known("cifar10", 0, files), report=lambda line: None)
    assert_cifar(images, labels)


def test_cifar_archive_of_pickled_batches(tmp_path):
    images, labels = cifar_arrays((4, 3, 3, 3, 3, 5))
    names = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
    files = {
        name: pickle.dumps({"data": image, "labels": of.tolist()}, protocol=2)
        for name, image, of in zip(names, images, labels, strict=True)
    }
    (tmp_path / "files").mkdir()
    with tarfile.open(tmp_path / "files" / "cifar-10-python.tar.gz", "w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    prepare("cifar10", tmp_path / "files", published=known("cifar10", 1, files), report=lambda line: None)
    assert_cifar(images, labels)


def test_cifar100_keeps_the_fine_labels(tmp_path):
    images, fine = cifar_arrays((6, 4))
    rows = [np.concatenate([of[:, None] // 5, of[:, None] * 9, i], 1) for i, of in zip(images, fine, strict=True)]
    files = {"train.bin": rows[0].tobytes(), "test.bin": rows[1].tobytes()}
    write(tmp_path / "files", files)
    prepare("cifar100", tmp_path / "files", published=known("cifar100", 0, files), report=lambda line: None)
    data = load("cifar100", scaling="raw", order="stored", validation_fraction=0.0)
    np.testing.assert_array_equal(data.train["labels"], fine[0] * 9)
    np.testing.assert_array_equal(data.test["inputs"], channels_last(images[1]))
    assert data.num_classes == 100


def test_extracted_files_without_a_known_digest_are_not_taken(tmp_path):
    write(tmp_path, {"train.bin": b"", "test.bin": b""})
    with pytest.raises(InputError, match=r"found no cifar-100-binary.tar.gz or cifar-100-python.tar.gz in"):
        prepare("cifar100", tmp_path)


def refusal(name, files=None, **settings):
    with pytest.raises(InputError) as error:
        prepare(name, files, **settings)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_wrong_files_are_named(tmp_path):
    files, _ = mnist_files()
    write(tmp_path, files)
    line = refusal("mnist", tmp_path)
    assert "train-images-idx3-ubyte.gz in" in line
    assert "not the original file (its checksum differs); download again from https://" in line
    write(tmp_path / "other", {"cifar-10-binary.tar.gz": b"not an archive"})
    assert "not the original archive" in refusal("cifar10", tmp_path / "other")


def test_missing_files_and_no_network_are_one_line(tmp_path):
    (tmp_path / "empty").mkdir()
    assert "found no train-images-idx3-ubyte.gz" in refusal("mnist", tmp_path / "empty")
    assert "give one that exists" in refusal("mnist", tmp_path / "none")
    assert "cannot reach https://" in refusal("mnist")


def test_names_that_cannot_be_prepared(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "unknown data set 'minst'; did you mean 'mnist'" in refusal("minst")
    assert "pip install 'hessflat[data]'" in refusal("svhn_cropped")
    assert "is not image classification" in refusal("ag_news_subset")
    assert "expected one shape for all" in refusal("imagenette")


def test_digests_that_tfds_has_are_tfdss():
    names = {Path(url).name: info.checksum for url, info in tfds.builder_cls("cifar10").url_infos.items()}
    filled = with_digests(PUBLISHED["cifar10"].layouts[0], names)
    assert filled.archive_digest == names["cifar-10-binary.tar.gz"]
    assert filled.digests == PUBLISHED["cifar10"].layouts[0].digests  # TFDS has none of what is in the archive
    for name in ("mnist", "fashion_mnist", "kmnist"):
        names = {Path(url).name: info.checksum for url, info in tfds.builder_cls(name).url_infos.items()}
        assert with_digests(PUBLISHED[name].layouts[0], names).digests == names


@pytest.mark.skipif(importlib.util.find_spec("tensorflow") is not None, reason="TensorFlow is here")
def test_what_is_written_by_hand_is_what_tfds_cannot_do_without_tensorflow(tmp_path, monkeypatch):
    """Once one of these passes, what stands in its place can go."""
    image = tfds.features.Image(shape=(28, 28, 1))
    assert image.encode_example(Image.new("L", (28, 28)))
    with pytest.raises(ImportError):
        image.encode_example(np.zeros((28, 28, 1), np.uint8))
    with tarfile.open(tmp_path / "files.tar.gz", "w:gz") as tar:
        tar.addfile(tarfile.TarInfo("empty"), io.BytesIO())
    manager = tfds.download.DownloadManager(download_dir=tmp_path)
    with pytest.raises(ImportError):
        list(manager.iter_archive(tmp_path / "files.tar.gz"))
    with pytest.raises(Exception, match="No module named 'tensorflow'"):
        manager.extract(tmp_path / "files.tar.gz")


def test_command_prepares_what_it_can(tmp_path, capsys):
    status = main(["prepare", "digits", "minst", "--from", "", "--cache", str(tmp_path / "c")])
    output = capsys.readouterr()
    assert status == 2
    assert output.out == "digits needs no preparation\n"
    assert output.err.startswith("unknown data set 'minst'")
    assert main(["list"]) == 0
    assert "no data set is prepared in" in capsys.readouterr().out
    assert prepared_names() == []


def test_a_text_becomes_rows_of_characters(cache):
    """Of a builder as TFDS gives one, whose own preparation would need TensorFlow and the network."""

    class Texts(list):
        def __getitems__(self, rows):
            return [self[row] for row in rows]

    splits = {"train": Texts([{"text": b"to be, or not to be: " * 20}]), "test": Texts([{"text": b"to see!"}])}
    info = SimpleNamespace(
        features=tfds.features.FeaturesDict({"text": tfds.features.Text()}),
        splits=splits,
        supervised_keys=None,
        version="1.0.0",
    )
    builder = SimpleNamespace(info=info, as_data_source=lambda split: splits[split])
    arrays, facts = _read_back(builder, "play", {}, Progress(disable=True))
    stored.write(arrays, facts)
    data = load("play", scaling="raw", validation_fraction=0.0)
    assert data.num_classes == len(set("to be, or not to be: ")) + 1
    assert data.train["inputs"].shape == (7, 64)
    assert data.train["weights"].sum() == 420
    letters = dict(enumerate(facts["alphabet"], 1))
    counted = data.test["weights"][0] > 0
    assert "".join(letters[number] for number in data.test["labels"][0][counted]) == "to ee"
    assert "test examples of 64, 10 tokens" in data.description
