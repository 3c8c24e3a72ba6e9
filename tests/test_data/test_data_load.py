"""`load`: splits, scalings and every refusal, on data that needs no preparation."""

import numpy as np
import pytest

from hessflat.data import ORDERS, SCALINGS, SOURCES, Source, load
from hessflat.utils.errors import InputError


def as_rows(split):
    return [row.tobytes() for row in split["inputs"]]


def register(monkeypatch, name="own", **changes):
    """A source of 40 examples of 4 components and 2 classes, with some of its fields changed."""
    inputs = np.random.default_rng(1).standard_normal((40, 4)).astype(np.float32)
    source = Source({"inputs": inputs, "labels": np.arange(40) % 2}, None, 2, None, "own data")
    monkeypatch.setitem(SOURCES, name, lambda: source._replace(**changes))
    return source


def test_digits_have_documented_shapes_and_types():
    data = load("digits")
    assert (data.num_classes, data.name) == (10, "digits")
    assert [len(part["labels"]) for part in data[:3]] == [1258, 180, 359]
    for part in data[:3]:
        assert part["inputs"].dtype == np.float32
        assert part["labels"].dtype == np.int32
        assert part["inputs"].shape == (len(part["labels"]), 8, 8, 1)
    assert "1258 training" in data.description


@pytest.mark.parametrize("order", ORDERS)
def test_real_targets_stay_with_their_inputs(order):
    data = load("sine", {"frequency": 3.0, "num_examples": 40}, scaling="raw", order=order)
    assert [len(part["labels"]) for part in data[:3]] == [36, 4, 256]
    for part in data[:3]:
        assert part["labels"].dtype == np.float32
        np.testing.assert_allclose(part["labels"], np.sin(3 * np.pi * part["inputs"]), atol=1e-6)
    assert "1 real targets" in data.description


def test_scattered_points_are_drawn_by_their_seed_and_joined_by_straight_lines():
    settings = {"scaling": "raw", "order": "stored", "validation_fraction": 0.0}
    data = load("scattered", {"spread": 2.0, "seed": 3}, **settings)
    np.testing.assert_allclose(data.train["inputs"][:, 0], np.linspace(0, 1, 8), rtol=1e-6)
    targets = data.train["labels"][:, 0]
    np.testing.assert_allclose(targets, 2 * np.random.default_rng(3).standard_normal(8), rtol=1e-6)
    between = np.interp(data.test["inputs"][:, 0], data.train["inputs"][:, 0], targets)
    np.testing.assert_allclose(data.test["labels"][:, 0], between, atol=1e-5)
    other = load("scattered", {"spread": 2.0, "seed": 4}, **settings)
    assert not np.array_equal(other.train["labels"], data.train["labels"])


def test_inputs_times_a_factor_are_scaled_over_what_was_asked_for(monkeypatch):
    source = register(monkeypatch)
    settings = {"scaling": "pixelwise", "order": "stored", "train_size": 10, "validation_fraction": 0.0, "test_size": 5}
    plain, half, over_all = (
        load("own", **settings, **own) for own in ({}, {"input_scale": 0.5}, {"scaling_over": "stored"})
    )
    for name in ("train", "test"):
        np.testing.assert_allclose(getattr(half, name)["inputs"], getattr(plain, name)["inputs"] / 2, rtol=1e-6)
    inputs = source.train["inputs"]
    expected = (inputs[:10] - inputs.mean(0)[None]) / inputs.std(0)[None]
    np.testing.assert_allclose(over_all.train["inputs"], expected, rtol=1e-4, atol=1e-6)
    assert "times 0.5" in half.description
    assert len({data.checksum for data in (plain, half, over_all)}) == 3


@pytest.mark.parametrize("order", ORDERS)
def test_a_point_is_all_there_is(order):
    data = load("point", {"x": 2.0}, scaling="raw", order=order, validation_fraction=0.0, test_fraction=0.0)
    for part, count in zip(data[:3], (1, 0, 1), strict=True):
        np.testing.assert_array_equal(part["inputs"], np.full((count, 1), 2.0))
        np.testing.assert_array_equal(part["labels"], np.full((count, 1), -1.0))


@pytest.mark.parametrize("order", ORDERS)
def test_splits_are_disjoint_and_cover_everything(order):
    data = load("blobs", scaling="raw", order=order, test_fraction=0.25, validation_size=50)
    rows = [row for part in data[:3] for row in as_rows(part)]
    assert len(rows) == len(set(rows)) == 600


def test_splits_and_their_beginnings_are_stratified():
    data = load("blobs", {"num_classes": 5, "num_examples": 1003}, train_size=402, test_size=201)
    for part in (*data[:3], {"labels": data.train["labels"][:37]}):
        counts = np.bincount(part["labels"], minlength=5)
        assert counts.max() - counts.min() <= 2


def test_unequal_classes_keep_their_shares(monkeypatch):
    labels = (np.arange(400) >= 300).astype(np.int32)
    inputs = np.arange(400, dtype=np.float32)[:, None]
    register(monkeypatch, train={"inputs": inputs, "labels": labels})
    data = load("own", train_size=100, validation_size=40, test_size=60)
    assert [int(part["labels"].sum()) for part in data[:3]] == [25, 10, 15]


def test_a_smaller_training_split_is_the_beginning_of_a_larger_one():
    small, large = (load("blobs", scaling="raw", train_size=size) for size in (50, 300))
    np.testing.assert_array_equal(small.train["inputs"], large.train["inputs"][:50])
    np.testing.assert_array_equal(small.test["inputs"], large.test["inputs"])
    np.testing.assert_array_equal(small.validation["inputs"], large.validation["inputs"])


def test_stored_order_trains_on_the_first_examples():
    inputs = SOURCES["digits"]().train["inputs"]
    data = load("digits", scaling="raw", order="stored", train_size=100)
    np.testing.assert_array_equal(data.train["inputs"], inputs[:100])
    np.testing.assert_array_equal(data.test["inputs"], inputs[-359:])


def test_same_arguments_give_same_arrays_and_others_another_checksum():
    first, again = load("digits"), load("digits")
    np.testing.assert_array_equal(first.train["inputs"], again.train["inputs"])
    assert first.checksum == again.checksum
    changes = ({"split_seed": 1}, {"scaling": "unit"}, {"validation_fraction": 0.2}, {"order": "stored"})
    sums = {first.checksum, *(load("digits", **change).checksum for change in changes)}
    assert len(sums) == 1 + len(changes)
    assert load("blobs").checksum != load("blobs", {"seed": 1}).checksum


def test_no_validation_split_is_an_empty_one():
    data = load("digits", validation_fraction=0.0)
    assert data.validation["inputs"].shape == (0, 8, 8, 1)
    assert len(data.train["labels"]) == 1797 - 359


def test_own_test_split_is_kept_or_cut(monkeypatch):
    test = {"inputs": np.arange(80, dtype=np.float32).reshape(20, 4), "labels": np.arange(20) % 2}
    register(monkeypatch, test=test)
    assert len(load("own").test["labels"]) == 20
    assert np.bincount(load("own", test_fraction=0.5).test["labels"]).tolist() == [5, 5]
    assert len(load("own", validation_fraction=0.0).train["labels"]) == 40
    with pytest.raises(InputError, match=r"data.test_size must be at most 20.*got 21; lower it"):
        load("own", test_size=21)


@pytest.mark.parametrize(
    ("scaling", "formula"),
    [
        ("raw", lambda x, train: x),
        ("unit", lambda x, train: x / 16),
        ("symmetric", lambda x, train: x / 8 - 1),
        ("standardised", lambda x, train: (x - train.mean()) / train.std()),
        ("overall", lambda x, train: (x - train.mean()) / train.std()),
    ],
)
def test_scaling_formulas(scaling, formula):
    raw, scaled = load("digits", scaling="raw"), load("digits", scaling=scaling)
    train = raw.train["inputs"].astype(np.float64)
    for before, after in zip(raw[:3], scaled[:3], strict=True):
        np.testing.assert_allclose(after["inputs"], formula(before["inputs"], train), atol=2e-6)


def test_overall_scaling_keeps_components_of_unlike_size_apart():
    raw, scaled = (load("blobs", {"dimension": 5}, scaling=scaling).train["inputs"] for scaling in ("raw", "overall"))
    np.testing.assert_allclose(scaled, (raw - raw.mean()) / raw.std(), atol=1e-5)
    assert np.ptp(scaled.std(axis=0)) > 0.01


def test_pixelwise_scaling_keeps_constant_pixels_at_zero():
    raw, scaled = load("digits", scaling="raw"), load("digits", scaling="pixelwise")
    constant = np.ptp(raw.train["inputs"], axis=0) == 0
    assert constant.any()
    assert not scaled.train["inputs"][:, constant].any()
    varying = scaled.train["inputs"][:, ~constant].astype(np.float64)
    np.testing.assert_allclose(varying.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(varying.std(0), 1, atol=1e-5)


def test_standardised_is_per_channel():
    train = np.random.default_rng(0).integers(0, 256, (2300, 3, 4, 2)).astype(np.uint8)
    train[..., 1] //= 4
    shift, scale = SCALINGS["standardised"](train, 255.0)
    np.testing.assert_allclose(shift, train.mean((0, 1, 2)), rtol=1e-6)
    np.testing.assert_allclose(scale, train.std((0, 1, 2)), rtol=1e-6)
    assert SCALINGS["standardised"](np.full((5, 2, 2, 1), 7, np.uint8), 255.0)[1] == 1


@pytest.mark.parametrize(
    ("arguments", "settings", "message"),
    [
        (
            ("digit",),
            {},
            r"'digit' is not prepared; did you mean 'digits'\? if not, run: .*hessflat data prepare digit",
        ),
        (("mnist",), {}, r"^data set 'mnist' is not prepared; run: python -m hessflat data prepare mnist$"),
        (("digits",), {"scaling": "standardized"}, "data.scaling must be one of raw, unit, .*got 'standardized'"),
        (("digits",), {"order": "random"}, "data.order must be one of stratified, stored"),
        (("digits",), {"train_size": 10.5}, "data.train_size must be a whole number of examples, 0 or more, got 10.5"),
        (("digits",), {"train_fraction": 100.0}, "data.train_fraction must be at least 0 and below 1, got 100.0"),
        (("digits",), {"validation_size": -1}, "data.validation_size must be"),
        (("digits",), {"split_seed": -1}, "data.split_seed must be at least 0"),
        (("digits",), {"train_size": 1500}, "has 1797 examples to split, got .* 2039 together; lower one of them"),
        (("digits",), {"test_size": 1797, "validation_fraction": 0.0}, "leaves none to train on; lower one of them"),
        (("digits",), {"validation_fraction": 0.0001}, "leaves an empty split; raise it or set it to 0"),
        (("digits", {"seed": 1}), {}, "'digits' has no settings of its own, got seed; leave them out"),
        (("blobs", {"spreed": 1.0}), {}, "unknown setting of data set 'blobs' 'spreed'; did you mean 'spread'"),
        (("blobs", {"spread": 0.0}), {}, "blobs.spread must be above 0 and finite, got 0.0"),
        (("blobs", {"num_examples": 2}), {}, "blobs.num_examples must be at least blobs.num_classes = 3, got 2"),
        (("blobs",), {"scaling": "unit"}, "needs pixels with a known maximum"),
    ],
)
def test_refusals_are_one_line(arguments, settings, message, tmp_path, monkeypatch):
    monkeypatch.setenv("HESSFLAT_DATA", str(tmp_path))
    with pytest.raises(InputError, match=message) as refusal:
        load(*arguments, **settings)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ({"inputs": np.full((4, 2), np.nan, np.float32), "labels": np.arange(4) % 2}, "got 8 values that are NaN"),
        ({"inputs": np.ones((4, 2)), "labels": np.arange(4)}, "labels must be integers from 0 to 1, got 0 to 3"),
        ({"inputs": np.ones((4, 2)), "labels": np.zeros(4)}, r"or with real targets \[n, 2\]"),
        ({"inputs": np.ones((4, 2)), "labels": np.full((4, 2), np.nan)}, "real targets must be finite, got 8 values"),
        ({"inputs": np.ones((4, 2)), "labels": np.zeros(3, int)}, r"expected inputs \[n, ...\] with labels \[n\]"),
        ({"inputs": np.ones((0, 2)), "labels": np.zeros(0, int)}, "has no examples"),
    ],
)
def test_unusable_sources_are_refused(train, message, monkeypatch):
    register(monkeypatch, train=train)
    with pytest.raises(InputError, match=message):
        load("own")


def test_label_noise_redraws_its_share_in_every_split():
    clean = load("digits", scaling="raw", test_fraction=0.5)
    for share in (0.2, 0.6):
        dirty = load("digits", scaling="raw", test_fraction=0.5, label_noise=share)
        for before, after in zip(clean[:3], dirty[:3], strict=True):
            np.testing.assert_array_equal(before["inputs"], after["inputs"])
            count, changed = len(before["labels"]), np.mean(before["labels"] != after["labels"])
            # A label that is drawn anew is its own in one case of ten.
            expected = 0.9 * share
            assert abs(changed - expected) < 4 * np.sqrt(expected * (1 - expected) / count)
        assert dirty.checksum != clean.checksum
        assert f"{share:.0%} of the labels drawn anew" in dirty.description
    assert set(np.unique(dirty.train["labels"])) == set(range(10))


def test_label_noise_is_of_the_example_and_of_the_seed_of_the_split():
    settings = {"scaling": "raw", "label_noise": 0.5, "order": "stored", "validation_fraction": 0.0}
    few, many = (load("digits", **settings, train_size=size) for size in (100, 800))
    np.testing.assert_array_equal(few.train["labels"], many.train["labels"][:100])
    other = load("digits", **settings, train_size=100, split_seed=1)
    assert np.any(few.train["labels"] != other.train["labels"])
    more = load("digits", **settings | {"label_noise": 0.9}, train_size=800)
    clean = load("digits", **settings | {"label_noise": 0.0}, train_size=800)
    noisy = many.train["labels"] != clean.train["labels"]
    np.testing.assert_array_equal(many.train["labels"][noisy], more.train["labels"][noisy])


def test_label_noise_is_refused_for_real_targets():
    with pytest.raises(InputError, match=r"data\.label_noise is for classes, and 'sine' has real targets; set it to 0"):
        load("sine", scaling="raw", label_noise=0.1)
