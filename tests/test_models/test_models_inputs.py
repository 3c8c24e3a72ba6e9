"""Image sizes that work, and one clear line where they do not."""

import jax
import jax.numpy as jnp
import pytest

from hessflat import models
from hessflat.utils.errors import InputError

CONVOLUTIONAL = ("cnn9", "two_convolutions", "alexnet", "vgg", "resnet", "preresnet", "wide_resnet")
OF_IMAGES = sorted({*models.MODELS} - {*models.TOKEN_MODELS})
SMALL_IMAGES = {
    "cnn9": {"last_padding": "same"},
    "two_convolutions": {"padding": "same"},
    "alexnet": {"poolings": 2},
    "vgg": {"poolings": 3},
}


def output_shape(name, shape, **settings):
    shallow = {"depth": 11} if name == "preresnet" else {}
    model = models.build(name, 7, **shallow, **settings)

    def run(key, inputs):
        params, batch_stats = model.init(key, inputs)
        return model.apply(params, batch_stats, inputs, True)[0]

    return jax.eval_shape(run, jax.random.key(0), jax.ShapeDtypeStruct((5, *shape), jnp.float32)).shape


@pytest.mark.parametrize("name", OF_IMAGES)
def test_images_of_cifar(name):
    assert output_shape(name, (32, 32, 3)) == (5, 7)


@pytest.mark.parametrize("name", OF_IMAGES)
def test_images_of_mnist(name):
    assert output_shape(name, (28, 28, 1), **({"poolings": 4} if name == "vgg" else {})) == (5, 7)


@pytest.mark.parametrize("name", OF_IMAGES)
def test_digits(name):
    assert output_shape(name, (8, 8, 1), **SMALL_IMAGES.get(name, {})) == (5, 7)


@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_flat_inputs_are_refused(name):
    with pytest.raises(InputError) as refusal:
        output_shape(name, (64,))
    assert str(refusal.value) == f"{name} needs images [height, width, channels], got inputs of shape [64]; use mlp"


@pytest.mark.parametrize(
    ("name", "settings", "shape", "line"),
    [
        (
            "vgg",
            {"depth": 11},
            (8, 8, 1),
            "vgg needs images of at least 32x32 for 5 poolings, got 8x8; use model.vgg.poolings=3",
        ),
        (
            "alexnet",
            {},
            (8, 9, 1),
            "alexnet needs images of at least 15x15 for a stride of 2 and 3 poolings, got 8x9; "
            "use model.alexnet.poolings=2",
        ),
        (
            "cnn9",
            {},
            (8, 8, 1),
            "cnn9 needs images of at least 9x9 for its unpadded convolution at a quarter of the size, got 8x8; "
            "use model.cnn9.last_padding=same",
        ),
        (
            "two_convolutions",
            {},
            (8, 8, 1),
            "two_convolutions needs images of at least 16x16 for kernels of 5 with valid padding and two poolings, "
            "got 8x8; use model.two_convolutions.padding=same",
        ),
        (
            "two_convolutions",
            {"padding": "same"},
            (3, 8, 1),
            "two_convolutions needs images of at least 4x4 for kernels of 5 with same padding and two poolings, "
            "got 3x8; use mlp",
        ),
    ],
)
def test_images_that_are_too_small_are_refused(name, settings, shape, line):
    with pytest.raises(InputError) as refusal:
        output_shape(name, shape, **settings)
    assert str(refusal.value) == line


@pytest.mark.parametrize(
    ("name", "settings", "side"),
    [
        *(("vgg", {"poolings": poolings}, 2**poolings) for poolings in (0, 3, 5)),
        *(("alexnet", {"poolings": poolings}, 2 ** (poolings + 1) - 1) for poolings in (0, 1, 2, 3)),
        *(("two_convolutions", {"kernel": kernel}, 3 * kernel + 1) for kernel in (1, 2, 3, 5)),
        ("two_convolutions", {"padding": "same"}, 4),
        ("cnn9", {}, 9),
        ("cnn9", {"last_padding": "same"}, 1),
        ("resnet", {}, 1),
        ("preresnet", {}, 1),
        ("wide_resnet", {"depth": 10}, 1),
    ],
)
def test_the_smallest_size_is_the_smallest(name, settings, side):
    assert output_shape(name, (side, side, 1), **settings) == (5, 7)
    if side > 1:
        with pytest.raises(InputError, match=f"at least {side}x{side}"):
            output_shape(name, (side - 1, side, 1), **settings)


@pytest.mark.parametrize(
    ("name", "settings", "line"),
    [
        ("vgg", {"depth": 12}, "model.vgg.depth must be one of 11, 13, 16, 19, got 12"),
        ("preresnet", {"depth": 18}, "model.preresnet.depth must be 9 n + 2, such as 11, 110 or 164, got 18"),
        ("wide_resnet", {"depth": 20}, "model.wide_resnet.depth must be 6 n + 4, such as 10, 16 or 28, got 20"),
        ("resnet", {"depht": 18}, "unknown setting of resnet 'depht'; did you mean 'depth'?"),
        ("resnett", {}, "model must be one of softmax_regression, mlp, "),
        ("mlp", {"init": "glorot"}, "model.mlp.init must be one of uniform, he, lecun, zeros, got 'glorot'"),
    ],
)
def test_settings_that_break_their_rule_are_refused(name, settings, line):
    with pytest.raises(InputError) as refusal:
        models.build(name, 10, **settings)
    assert str(refusal.value).startswith(line)
    assert "\n" not in str(refusal.value)
