"""Sentences of a probabilistic grammar, whose entropy is known: token data without a network and without end.

Text in the public domain would need a download; licences and documentation, which installed packages do hold, are small
and of one kind. A grammar is deterministic, has as many sentences as are asked for, and says how far a loss can fall:
no derivation shares its sentence with another, so the entropy of a sentence is that of its derivation.

What a model can learn goes beyond neighbours: a verb agrees in number with its subject across relative clauses, and
which verb it is depends on the subject.
"""

import math
from bisect import bisect
from itertools import accumulate
from typing import NamedTuple

import numpy as np

# A noun and its verbs in the singular and the plural; nouns and verbs by rank.
_NOUNS = ("girl", "dog", "farmer", "ship", "horse", "queen", "bird", "river", "stone", "letter")
_TRANSITIVE = (("sees", "see"), ("finds", "find"), ("follows", "follow"), ("moves", "move"), ("knows", "know"))
_INTRANSITIVE = (("sleeps", "sleep"), ("falls", "fall"), ("sings", "sing"), ("waits", "wait"), ("grows", "grow"))
_DETERMINERS = (("the", "a", "each"), ("the", "some", "many"))
_ADJECTIVES = ("large", "small", "red", "quiet", "young", "tall")
_ADVERBS = ("slowly", "often", "now", "again")

WORDS = (
    "<begin>",
    ".",
    "that",
    *dict.fromkeys(word for words in _DETERMINERS for word in words),
    *_ADJECTIVES,
    *(word for noun in _NOUNS for word in (noun, f"{noun}s")),
    *(word for verb in (*_TRANSITIVE, *_INTRANSITIVE) for word in verb),
    *_ADVERBS,
)
_TOKENS = {word: token for token, word in enumerate(WORDS)}

# Probabilities of what may be there.
_PLURAL, _ADJECTIVE, _RELATIVE, _OF_SUBJECT, _OBJECT, _ADVERB = 0.4, 0.3, 0.25, 0.5, 0.6, 0.3


class Corpus(NamedTuple):
    """Rows of whole sentences, one after the other, as many as fit; what is left of a row does not count."""

    inputs: np.ndarray  # int32 [n, T], the word before each label, `<begin>` before the first
    labels: np.ndarray  # int32 [n, T]
    weights: np.ndarray  # float32 [n, T], 1, or 0 where there is no word


def corpus(rows: int, length: int, seed: tuple[int, ...]) -> Corpus:
    """`rows` rows of `length` tokens; sentences that are longer than a row are left out."""
    random = np.random.default_rng(seed)
    labels = np.zeros((rows, length), np.int32)
    weights = np.zeros((rows, length), np.float32)
    row = place = 0
    while row < rows:
        words = _sentence(random)
        if len(words) > length:
            continue
        if place + len(words) > length:
            row, place = row + 1, 0
            if row == rows:
                break
        labels[row, place : place + len(words)] = [_TOKENS[word] for word in words]
        weights[row, place : place + len(words)] = 1
        place += len(words)
    inputs = np.concatenate([np.zeros((rows, 1), np.int32), labels[:, :-1]], axis=1)
    return Corpus(inputs, labels, weights)


def entropy_rate() -> float:
    """The entropy of a sentence over its expected number of words, full stop included, in nats.

    No model's mean loss over many sentences is lower, but for what the ends of rows give away.
    """
    noun, verb, adverb = (_entropy(_shares(count)) for count in (len(_NOUNS), len(_TRANSITIVE), len(_ADVERBS)))
    determiner = _entropy(_shares(3))
    # Each row: its own entropy and words, then how many noun phrases, relative clauses and verb phrases follow.
    coin = {p: _entropy((p, 1 - p)) for p in (_PLURAL, _ADJECTIVE, _RELATIVE, _OF_SUBJECT, _OBJECT, _ADVERB)}
    adjective = coin[_ADJECTIVE] + _ADJECTIVE * _entropy(_shares(len(_ADJECTIVES)))
    own = np.array(
        [
            [coin[_PLURAL] + determiner + adjective + noun + coin[_RELATIVE], 2 + _ADJECTIVE],
            [coin[_OF_SUBJECT] + (1 - _OF_SUBJECT) * verb, 2 - _OF_SUBJECT],
            [coin[_OBJECT] + verb + (1 - _OBJECT) * (coin[_ADVERB] + _ADVERB * adverb), 1 + (1 - _OBJECT) * _ADVERB],
        ]
    )
    follow = np.array([[0, _RELATIVE, 0], [1 - _OF_SUBJECT, 0, _OF_SUBJECT], [_OBJECT, 0, 0]])
    noun_phrase, _, verb_phrase = np.linalg.solve(np.eye(3) - follow, own)
    entropy, words = noun_phrase + verb_phrase + np.array([0, 1])
    return float(entropy / words)


def _sentence(random: np.random.Generator) -> list[str]:
    """A sentence with its full stop."""
    words, subject, number = _noun_phrase(random, 0)
    return [*words, *_verb_phrase(random, subject, number), "."]


def _noun_phrase(random: np.random.Generator, shift: int) -> tuple[list[str], int, int]:
    """The words, which noun it is, and 0 for the singular or 1; `shift` says which noun is the most likely."""
    number = int(random.random() < _PLURAL)
    words = [_DETERMINERS[number][_rank(random, 3)]]
    if random.random() < _ADJECTIVE:
        words.append(_ADJECTIVES[_rank(random, len(_ADJECTIVES))])
    noun = (_rank(random, len(_NOUNS)) + shift) % len(_NOUNS)
    words.append(f"{_NOUNS[noun]}s" if number else _NOUNS[noun])
    if random.random() < _RELATIVE:
        words.append("that")
        if random.random() < _OF_SUBJECT:
            words += _verb_phrase(random, noun, number)
        else:
            inner, subject, its_number = _noun_phrase(random, 0)
            words += [*inner, _verb(random, _TRANSITIVE, subject)[its_number]]
    return words, noun, number


def _verb_phrase(random: np.random.Generator, subject: int, number: int) -> list[str]:
    if random.random() < _OBJECT:
        verb = _verb(random, _TRANSITIVE, subject)
        return [verb[number], *_noun_phrase(random, 2 * _TRANSITIVE.index(verb))[0]]
    words = [_verb(random, _INTRANSITIVE, subject)[number]]
    if random.random() < _ADVERB:
        words.append(_ADVERBS[_rank(random, len(_ADVERBS))])
    return words


def _verb(random: np.random.Generator, verbs: tuple[tuple[str, str], ...], subject: int) -> tuple[str, str]:
    """A verb in both numbers; which is the most likely depends on the subject."""
    return verbs[(_rank(random, len(verbs)) + subject) % len(verbs)]


def _rank(random: np.random.Generator, count: int) -> int:
    return min(bisect(list(accumulate(_shares(count))), random.random()), count - 1)


def _shares(count: int) -> list[float]:
    """Zipf's law squared: rank r has a share in proportion to 1/r²."""
    weights = [1 / rank**2 for rank in range(1, count + 1)]
    return [weight / sum(weights) for weight in weights]


def _entropy(shares: list[float] | tuple[float, ...]) -> float:
    return -sum(share * math.log(share) for share in shares)
