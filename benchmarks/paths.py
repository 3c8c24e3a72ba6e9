"""How far one thing leads through the package: files entered, functions called, the deepest chain of calls.

    python -m benchmarks.paths

Counted with `sys.setprofile` while (a) one Lanczos of ten steps runs on the README's perceptron and (b) one smoke run
of g_mlp is trained and measured, in this process and with nothing compiled before. Only frames whose code lies in
`hessflat/` count; comprehensions and lambdas count as the function that they stand in, other nested functions by
themselves. A chain is what of one call stack lies in the package, whatever of JAX or the user lies between. Code that
runs when a module is imported is left out.
"""

import importlib
import pkgutil
import runpy
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import hessflat

PACKAGE = Path(hessflat.__file__).parent
_PART_OF_A_FUNCTION = {"<lambda>", "<listcomp>", "<setcomp>", "<dictcomp>", "<genexpr>"}


class Paths(NamedTuple):
    """What one call entered of the package."""

    files: tuple[str, ...]  # relative to the package, sorted
    functions: int
    chain: tuple[str, ...]  # the deepest, outermost first, as `file:function`


def measure(function: Callable[[], Any]) -> Paths:
    """Run `function` once and count, in every thread that it starts."""
    functions: set[tuple[str, str]] = set()
    deepest: tuple[str, ...] = ()
    depths: dict[FrameType, int] = {}

    def profile(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal deepest
        if event == "return":
            depths.pop(frame, None)
        if event != "call":
            return
        outer = frame.f_back
        while outer is not None and outer not in depths:
            outer = outer.f_back
        depth = depths[outer] if outer is not None else 0
        if _is_counted(frame):
            functions.add(_place(frame))
            depth += 1
            depths[frame] = depth
            if depth > len(deepest):
                deepest = tuple(":".join(_place(f)) for f in reversed(_stack(frame)))

    previous = sys.getprofile()
    threading.setprofile(profile)
    sys.setprofile(profile)
    try:
        function()
    finally:
        sys.setprofile(previous)
        threading.setprofile(None)
    return Paths(tuple(sorted({file for file, _ in functions})), len(functions), deepest)


def _is_counted(frame: FrameType) -> bool:
    code = frame.f_code
    return code.co_filename.startswith(f"{PACKAGE}/") and code.co_name not in {*_PART_OF_A_FUNCTION, "<module>"}


def _place(frame: FrameType) -> tuple[str, str]:
    return str(Path(frame.f_code.co_filename).relative_to(PACKAGE)), frame.f_code.co_qualname


def _stack(frame: FrameType | None) -> list[FrameType]:
    frames = []
    while frame is not None:
        if _is_counted(frame):
            frames.append(frame)
        frame = frame.f_back
    return frames


def lanczos_of_ten_steps() -> None:
    """The README's perceptron, its Hessian in four batches, ten steps from one probe."""
    import jax
    import jax.numpy as jnp

    import hessflat.curvature as cv

    def loss(params: Any, batch: Any) -> Any:
        return jnp.mean((jnp.tanh(batch["x"] @ params["in"]) @ params["out"] - batch["y"]) ** 2)

    keys = jax.random.split(jax.random.key(0), 5)
    params = {"in": jax.random.normal(keys[0], (10, 20)), "out": jax.random.normal(keys[1], (20,))}
    data = {"x": jax.random.normal(keys[2], (500, 10)), "y": jax.random.normal(keys[3], (500,))}
    cv.lanczos(cv.hessian(loss, params, cv.Batches(data, 128)), keys[4], 10)


def smoke_run() -> None:
    """`python -m hessflat train --config=g_mlp:smoke` into a folder that is removed afterwards."""
    arguments, root = sys.argv, tempfile.mkdtemp()
    sys.argv = ["hessflat", "train", "--config=g_mlp:smoke", f"--root={root}"]
    try:
        runpy.run_module("hessflat", run_name="__main__", alter_sys=True)
    except SystemExit as end:
        if end.code:
            raise
    finally:
        sys.argv = arguments
        shutil.rmtree(root)


def import_everything() -> None:
    """Import every module of the package, so that only what runs is counted."""
    for module in pkgutil.walk_packages([str(PACKAGE)], "hessflat."):
        if module.name != "hessflat.__main__":
            importlib.import_module(module.name)


def main() -> None:
    """Print a row for each path, then its files and its deepest chain."""
    import_everything()
    rows = [("Lanczos of ten steps", measure(lanczos_of_ten_steps)), ("smoke run of g_mlp", measure(smoke_run))]
    print(f"\n{'':24}{'files':>8}{'functions':>12}{'deepest':>10}")
    for name, paths in rows:
        print(f"{name:24}{len(paths.files):>8}{paths.functions:>12}{len(paths.chain):>10}")
    for name, paths in rows:
        print(f"\n{name}\n  files: {', '.join(paths.files)}")
        print("\n".join(f"  {depth:>3} {place}" for depth, place in enumerate(paths.chain, 1)))


if __name__ == "__main__":
    main()
