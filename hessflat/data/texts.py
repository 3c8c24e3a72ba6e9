"""A text as rows of characters, each predicted from those before it in its row."""

from collections.abc import Sequence

import numpy as np

# Characters of a row.
LENGTH = 64


def rows(text: str, alphabet: Sequence[str], length: int = LENGTH) -> dict[str, np.ndarray]:
    """`inputs`, `labels` and `weights` [n, length] of a text; characters are numbered from 1 as in `alphabet`.

    An input is the character before its label, 0 before the first of the text. What the alphabet lacks, and what is
    left of the last row, is 0 and does not count.

    >>> rows("abac", "ab", length=3)["labels"].tolist()
    [[1, 2, 1], [0, 0, 0]]
    >>> rows("abac", "ab", length=3)["weights"].tolist()
    [[1.0, 1.0, 1.0], [0.0, 0.0, 0.0]]
    """
    numbers = {character: number for number, character in enumerate(alphabet, 1)}
    known = np.array([numbers.get(character, 0) for character in text], np.int32)
    count = -(-len(known) // length)
    labels = np.zeros(count * length, np.int32)
    labels[: len(known)] = known
    inputs = np.concatenate([np.zeros(1, np.int32), labels[:-1]])
    arrays = {"inputs": inputs, "labels": labels, "weights": (labels > 0).astype(np.float32)}
    return {name: array.reshape(count, length) for name, array in arrays.items()}
