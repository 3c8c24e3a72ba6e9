"""Tiny data sets in the form in which they are published, for tests of everything that starts with them."""

import gzip
import hashlib
import struct

import numpy as np

from hessflat.data.published import PUBLISHED


def idx(array):
    header = struct.pack(">HBB", 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
    return gzip.compress(header + array.tobytes())


def mnist_files(seed=0, counts=(40, 20)):
    """Files of MNIST's form by name, and the arrays in them by split."""
    random = np.random.default_rng(seed)
    files, arrays = {}, {}
    for split, part, count in zip(("train", "test"), ("train", "t10k"), counts, strict=True):
        images = random.integers(0, 256, (count, 28, 28)).astype(np.uint8)
        labels = (np.arange(count) % 10).astype(np.uint8)
        files |= {f"{part}-images-idx3-ubyte.gz": idx(images), f"{part}-labels-idx1-ubyte.gz": idx(labels)}
        arrays[split] = images, labels
    return files, arrays


def write(folder, files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)


def known(name, layout, files):
    """The published data set with the digests of the tiny files, so that the rest of it is exercised as it is."""
    digests = {key: hashlib.md5(content).hexdigest() for key, content in files.items()}
    entry = PUBLISHED[name]
    return {name: entry._replace(layouts=(entry.layouts[layout]._replace(digests=digests),))}
