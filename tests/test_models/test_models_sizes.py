"""Numbers of parameters beside the papers', and every number of docs/models.md. No network is allocated here."""

import ast
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from hessflat import models
from hessflat.measures.performance import rank_bound

PAGE = Path(__file__).parents[2] / "docs" / "models.md"

# What the papers say, and where: G is Flatness is a False Friend, S Empirical Analysis of the Hessian.
PAPERS = {
    ("softmax_regression", "", "28x28x1, 10"): 7_850,  # G §4, figure 2
    ("mlp", "hidden=(30, 30)", "100, 2"): 4_022,  # S appendix A, table 1
    ("mlp", "hidden=(30, 30)", "100, 5"): 4_115,
    ("mlp", "hidden=(30, 30)", "100, 10"): 4_270,
    ("mlp", "hidden=(30, 30)", "100, 20"): 4_580,
    ("mlp", "hidden=(30, 30)", "100, 50"): 5_510,
    ("cnn9", "", "32x32x3, 100"): 1_387_108,  # G §4, figure 4
    ("preresnet", "depth=164", "32x32x3, 100"): 1_726_388,  # G §4, figure 5
    ("wide_resnet", "depth=28, widening=10", "32x32x3, 100"): 36_546_980,  # G §4, figures 6 and 7
}
# Where the papers' numbers are not the networks' that they name; the page says why.
OTHERS = {
    ("mlp", "hidden=(100,)", "28x28x1, 10"): "9,960",  # G §4, figure 3
    ("vgg", "depth=16, batch_norm=False", "32x32x3, 10"): "1.6e7",  # G §3.2
}


def shapes(name, settings, inputs):
    """Shapes of the parameters, from texts such as "depth=16" and "32x32x3, 10"."""
    keywords = ast.parse(f"dict({settings})", mode="eval").body.keywords
    shape, classes = inputs.split(", ")
    model = models.build(name, int(classes), **{word.arg: ast.literal_eval(word.value) for word in keywords})
    dtype = jnp.int32 if name in models.TOKEN_MODELS else jnp.float32
    example = jax.ShapeDtypeStruct((1, *map(int, shape.split("x"))), dtype)
    return jax.eval_shape(model.init, jax.random.key(0), example)[0]


def rows():
    """(model, settings, inputs and outputs, P, the paper's P) of every line of the page's table."""
    lines = re.findall(rf"^\| `({'|'.join(models.MODELS)})` \|(.*)\|$", PAGE.read_text(), re.MULTILINE)
    return [(name, *(cell.strip().strip("`") for cell in rest.split("|")[:4])) for name, rest in lines]


@pytest.mark.parametrize("row", rows(), ids=lambda row: " ".join(row[:3]))
def test_the_page_counts_right(row):
    name, settings, inputs, ours, papers = row
    count = models.num_params(shapes(name, settings, inputs))
    assert ours == f"{count:,}"
    key = (name, settings, inputs)
    if key in PAPERS:
        assert count == PAPERS[key]
        assert papers == f"{count:,}"
    else:
        assert papers == OTHERS.get(key, "")


def test_the_page_has_every_model_and_every_number_of_the_papers():
    assert {row[0] for row in rows()} == set(models.MODELS)
    assert {row[:3] for row in rows()} >= {*PAPERS, *OTHERS}


def test_neurons_of_vgg():
    # 13,416 neurons are the paper's count: that of ImageNet's VGG-16, whatever the images.
    imagenet = shapes("vgg", "depth=16, head=(4096, 4096), batch_norm=False", "32x32x3, 1000")
    assert models.num_neurons(imagenet) == 13_416
    cifar = models.num_neurons(shapes("vgg", "depth=16", "32x32x3, 10"))
    text = PAGE.read_text()
    assert f"{cifar:,} neurons" in text
    bound = rank_bound(10, cifar, 32 * 32 * 3)
    size = models.num_params(shapes("vgg", "depth=16, batch_norm=False", "32x32x3, 10"))
    assert f"4 · 10 · ({cifar:,} + 3,072) = {bound:,}" in text
    assert f"{1 - bound / size:.4f}" in text


def test_scales_and_running_averages_are_not_neurons():
    with_norm = shapes("resnet", "width=4", "8x8x1, 10")
    without = shapes("resnet", "width=4, batch_norm=False", "8x8x1, 10")
    assert models.num_neurons(with_norm) == models.num_neurons(without)
    assert models.num_params(with_norm) > models.num_params(without)
