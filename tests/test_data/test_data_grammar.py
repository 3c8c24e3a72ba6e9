"""The grammar: a parser of its own takes sentences apart in one way, whose probabilities have the stated entropy."""

import numpy as np
import pytest

from hessflat.data import SOURCES, Source, grammar, load
from hessflat.utils.errors import InputError

NOUNS, TRANSITIVE, INTRANSITIVE = grammar._NOUNS, grammar._TRANSITIVE, grammar._INTRANSITIVE


def zipf(rank, count):
    return rank**-2.0 / sum(r**-2.0 for r in range(1, count + 1))


class Parser:
    """Recursive descent that adds up −log p; every word says which rule made it."""

    def __init__(self, words):
        self.words, self.at, self.nats = words, 0, 0.0

    def peek(self):
        return self.words[self.at]

    def take(self, probability):
        self.at += 1
        self.nats -= np.log(probability)
        return self.words[self.at - 1]

    def choose(self, happens, probability):
        self.nats -= np.log(probability if happens else 1 - probability)
        return happens

    def noun_phrase(self, shift):
        number = next(word for word in self.words[self.at :] if word.removesuffix("s") in NOUNS).endswith("s")
        self.choose(number, 0.4)
        self.take(zipf(grammar._DETERMINERS[number].index(self.peek()) + 1, 3))
        if self.choose(self.peek() in grammar._ADJECTIVES, 0.3):
            self.take(zipf(grammar._ADJECTIVES.index(self.peek()) + 1, 6))
        noun = NOUNS.index(self.peek().removesuffix("s"))
        self.take(zipf((noun - shift) % 10 + 1, 10))
        if self.choose(self.peek() == "that", 0.25):
            self.take(1)
            forms = [form for pair in (*TRANSITIVE, *INTRANSITIVE) for form in pair]
            if self.choose(self.peek() in forms, 0.5):
                self.verb_phrase(noun, number)
            else:
                inner, its_number = self.noun_phrase(0)
                self.verb(TRANSITIVE, inner, its_number)
        return noun, number

    def verb(self, verbs, subject, number):
        which = [pair[number] for pair in verbs].index(self.peek())  # agreement: no other form is found
        self.take(zipf((which - subject) % 5 + 1, 5))
        return which

    def verb_phrase(self, subject, number):
        if self.choose(self.peek() in [pair[number] for pair in TRANSITIVE], 0.6):
            self.noun_phrase(2 * self.verb(TRANSITIVE, subject, number))
        else:
            self.verb(INTRANSITIVE, subject, number)
            if self.choose(self.peek() in grammar._ADVERBS, 0.3):
                self.take(zipf(grammar._ADVERBS.index(self.peek()) + 1, 4))

    def sentence(self):
        subject, number = self.noun_phrase(0)
        self.verb_phrase(subject, number)
        assert self.take(1) == "."


def test_every_sentence_is_derived_once_and_the_entropy_is_as_stated():
    data = grammar.corpus(900, 64, (1,))
    nats, lengths = [], []
    for row, counts in zip(data.labels, data.weights, strict=True):
        parser = Parser([grammar.WORDS[token] for token in row[counts > 0]])
        while parser.at < len(parser.words):
            before = parser.at, parser.nats
            parser.sentence()
            lengths.append(parser.at - before[0])
            nats.append(parser.nats - before[1])
    rate = np.sum(nats) / np.sum(lengths)
    error = np.std(np.array(nats) - rate * np.array(lengths)) * np.sqrt(len(nats)) / np.sum(lengths)
    assert len(nats) > 5_000
    assert abs(rate - grammar.entropy_rate()) < 4 * error < 0.02


def test_rows_are_words_and_what_precedes_them():
    data = load("grammar", {"num_examples": 40, "test_examples": 10}, scaling="raw", validation_fraction=0.0)
    again = load("grammar", {"num_examples": 40, "test_examples": 10}, scaling="raw", validation_fraction=0.0)
    assert data.checksum == again.checksum
    assert "40 training, 0 validation and 10 test examples of 32, 58 tokens" in data.description
    for part, rows in ((data.train, 40), (data.test, 10)):
        assert part["inputs"].shape == part["labels"].shape == part["weights"].shape == (rows, 32)
        assert {part["inputs"].dtype, part["labels"].dtype} == {np.dtype(np.int32)}
        np.testing.assert_array_equal(part["inputs"][:, 1:], part["labels"][:, :-1])
        assert (part["labels"][part["weights"] > 0] > 0).all()
        assert (part["labels"][part["weights"] == 0] == 0).all()
    assert not np.array_equal(data.train["labels"][:10], data.test["labels"])


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({}, "data.scaling must be 'raw' for tokens, which 'grammar' has, got 'standardised'"),
        (
            {"scaling": "raw", "label_noise": 0.1},
            "data.label_noise must be 0.0 for tokens, which 'grammar' has, got 0.1",
        ),
    ],
)
def test_tokens_are_not_scaled(options, line):
    with pytest.raises(InputError) as refusal:
        load("grammar", {"num_examples": 10, "test_examples": 10}, **options)
    assert str(refusal.value) == line


def test_tokens_that_no_run_could_use_are_refused(monkeypatch):
    tokens = np.ones((6, 3), np.int32)
    for changes, words in (
        ({"weights": np.zeros((6, 3))}, "not 0 for a whole row"),
        ({"weights": np.ones((6, 2))}, "of one shape"),
        ({"inputs": 9 * tokens, "weights": np.ones((6, 3))}, "integers from 0 to 3"),
    ):
        source = Source({"inputs": tokens, "labels": tokens} | changes, None, 4, None, "own data")
        monkeypatch.setitem(SOURCES, "own", lambda source=source: source)
        with pytest.raises(InputError, match=words):
            load("own", scaling="raw")
