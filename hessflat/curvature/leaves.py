"""What people bring as arrays: made into arrays that JAX has, or refused by name."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import AxisType, Mesh, NamedSharding

from hessflat.utils.errors import InputError, in_one_line

# What holds no numbers, by the kind of a NumPy type, and what to do about it.
_NO_NUMBERS = {
    "O": ("objects", "make it an array of numbers, as .astype(np.float32) does where all of them are"),
    "U": ("text", "number the classes, as np.unique(labels, return_inverse=True) does"),
    "S": ("text", "number the classes, as np.unique(labels, return_inverse=True) does"),
    "M": ("dates", "give numbers, such as days since the first"),
    "m": ("durations", "give numbers, such as seconds"),
    "V": ("records", "give their fields as arrays of their own, in a dict"),
}


def converted(name: str, leaf: Any) -> np.ndarray:
    """`leaf`, anything but a JAX array, as a NumPy array of a type that JAX has in its present mode.

    Big-endian numbers are turned round, long doubles shortened to doubles, and 64-bit numbers to 32 bits where 64-bit
    mode is off.

    Raises:
        InputError: no array, no numbers, masked values, or numbers beyond 32 bits; the message begins with `name`.
    """
    if isinstance(leaf, jax.ShapeDtypeStruct) or not (hasattr(leaf, "dtype") or hasattr(leaf, "__array__")):
        raise InputError(f"{name} must be an array, got {type(leaf).__name__}{_if_a_loader(name, leaf)}")
    if np.ma.is_masked(leaf):
        raise InputError(
            f"{name} is a masked array, and its mask would be lost; give it filled, .filled(0), and the mask as an "
            "array of its own, as Batches(..., weights=mask) where what is masked does not count"
        )
    try:
        array = np.asarray(leaf)
    except Exception as error:  # of another library, as for tensors on a device or of a type that NumPy has not
        advice = "give arrays of NumPy or JAX, as tensor.detach().float().numpy() of PyTorch"
        raise InputError(f"{name} cannot be made a NumPy array: {in_one_line(error)}; {advice}") from error
    kind = array.dtype.kind
    # Narrow types of JAX, such as bfloat16, are "V" to NumPy.
    if kind not in "fiubc" and not jnp.issubdtype(array.dtype, np.number):
        what, advice = _NO_NUMBERS.get(kind, ("something else", "give an array of numbers"))
        if kind == "V" and array.dtype.names is None:  # what NumPy's files make of bfloat16
            what, advice = "bytes", "NumPy's files lose narrow types such as bfloat16: save them as .astype(np.float32)"
        raise InputError(f"{name} must hold numbers, got {what} of type {array.dtype}; {advice}")
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    if kind in "fc" and array.dtype not in (np.float16, np.float32, np.float64, np.complex64, np.complex128):
        array = array.astype(np.float64 if kind == "f" else np.complex128)
    return _narrowed(name, array)


def _if_a_loader(name: str, leaf: Any) -> str:
    """What to do about data that come batch by batch."""
    if name != "data" or not (callable(leaf) or hasattr(leaf, "__iter__")) or isinstance(leaf, str | bytes):
        return ""
    return "; batches that come in turn, as from a data loader, are cv.Stream(batches)"


def _narrowed(name: str, array: np.ndarray) -> np.ndarray:
    dtype = jax.dtypes.canonicalize_dtype(array.dtype)
    if dtype == array.dtype:
        return array
    with np.errstate(over="ignore"):
        result = array.astype(dtype)
    if array.dtype.kind in "iu":
        limits = np.iinfo(dtype)
        beyond = np.count_nonzero((array < limits.min) | (array > limits.max))
    else:
        beyond = np.count_nonzero(np.isfinite(array) & ~np.isfinite(result))
    if beyond:
        raise InputError(
            f"{name} holds {beyond} of {array.size} values beyond {dtype}; scale or number them anew, or switch 64-bit "
            "mode on first, jax.config.update('jax_enable_x64', True)"
        )
    return result


def on_automatic_mesh(array: Array) -> Array:
    """`array`, on an equal mesh whose axes are Auto where it lies on one with Explicit or Manual axes.

    The types of an Explicit mesh would have to be kept by every operation on vectors. The memory stays where it is.
    """
    sharding = array.sharding
    if not isinstance(sharding, NamedSharding) or not isinstance(sharding.mesh, Mesh):
        return array
    mesh = sharding.mesh
    if all(kind == AxisType.Auto for kind in mesh.axis_types):
        return array
    mesh = Mesh(mesh.devices, mesh.axis_names, axis_types=(AxisType.Auto,) * len(mesh.axis_names))
    result: Array = jax.device_put(array, NamedSharding(mesh, sharding.spec))
    return result


def not_differentiable(dtype: Any, instead: str) -> str:
    """What to do about numbers that are not real floating point: `instead`, or what complex ones take."""
    if jnp.issubdtype(dtype, jnp.complexfloating):
        return "give real and imaginary parts as two arrays, and join them within the function, re + 1j * im"
    return instead
