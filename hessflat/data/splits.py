"""Which examples train, validate and test: a function of (labels, sizes, seed) alone.

One order of all examples is drawn; the training split is a piece from its front, validation and test are from
its end. So a smaller training split is part of a larger one, and its size leaves the other two as they were.
"""

from collections.abc import Callable

import numpy as np

from hessflat.config import Rule
from hessflat.utils.errors import InputError

whole_number = Rule(lambda value: isinstance(value, int) and value >= 0, "a whole number of examples, 0 or more")


def stratified(labels: np.ndarray, seed: int) -> np.ndarray:
    """A permutation `[n]` of the examples; every piece of it holds each class in its share, to within two.

    Example r of the n_c of a class (in random order) is placed at (r + 1/2) / n_c; ties are broken at random. Real
    targets are all of one class.
    """
    random = np.random.default_rng(seed)
    classes = labels if np.issubdtype(labels.dtype, np.integer) else np.zeros(len(labels), np.int32)
    place = np.empty(len(labels))
    for label in np.unique(classes):
        members = np.flatnonzero(classes == label)
        place[random.permutation(members)] = (np.arange(len(members)) + 0.5) / len(members)
    return np.lexsort((random.random(len(labels)), place))


def stored(labels: np.ndarray, seed: int) -> np.ndarray:
    """The data set's own order, so that a paper's "first 5,000 examples" can be had; the seed is not used."""
    return np.arange(len(labels))


ORDERS: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {"stratified": stratified, "stored": stored}


def split_size(split: str, size: int, fraction: float, available: int) -> int:
    """Examples of a split: `size` where it is above 0, else a `fraction` of the `available` ones."""
    count = size or round(fraction * available)
    if fraction > 0 and count == 0:
        raise InputError(
            f"data.{split}_fraction = {fraction:g} of {available} examples leaves an empty split; "
            "raise it or set it to 0"
        )
    return count


def cut(order: np.ndarray, counts: dict[str, int], name: str) -> dict[str, np.ndarray]:
    """Disjoint pieces of `order`: `train` from its front (0: all that is left), the others from its end.

    `counts` maps `train` and then the names of the other pieces to numbers of examples.
    """
    total = sum(counts.values())
    others = total - counts["train"]
    if total > len(order) or others >= len(order):
        asked = " + ".join(f"{count} for {piece}" for piece, count in counts.items() if count)
        problem = "which leaves none to train on" if others >= len(order) else f"{total} together"
        raise InputError(
            f"data set {name!r} has {len(order)} examples to split, got {asked}, {problem}; lower one of them"
        )
    pieces = {"train": order[: counts["train"] or len(order) - others]}
    start = len(order) - others
    for piece, count in counts.items():
        if piece != "train":
            pieces[piece] = order[start : start + count]
            start += count
    return pieces
