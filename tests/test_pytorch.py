"""docs/pytorch.md runs where PyTorch is installed: the curvature of a module agrees with PyTorch's own within 1e-5."""

import contextlib
import importlib.util
import io
import re
from pathlib import Path

import jax
import pytest

PAGE = Path(__file__).parents[1] / "docs" / "pytorch.md"


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)


@pytest.mark.slow
def test_the_curvature_of_a_module_agrees_with_torch():
    pytest.importorskip("torch", reason="PyTorch is not installed")
    *first, last = blocks("py")
    names, printed = {"__name__": "page"}, io.StringIO()
    with contextlib.redirect_stdout(printed), jax.numpy_rank_promotion("allow"):
        for body in first:
            exec(compile(body, PAGE.name, "exec"), names)
        assert printed.getvalue() == "twin: 157 eigenvalues, within 1e-5 of λ_max\n"
        if importlib.util.find_spec("torchax") is None:
            pytest.skip("torchax is not installed; the twin agrees")
        (before,) = blocks("py-before")
        exec(compile(before, PAGE.name, "exec"), {})
        exec(compile(last, PAGE.name, "exec"), names)
    assert printed.getvalue().splitlines()[1] == "torchax: 157 eigenvalues, within 1e-5 of λ_max"


def test_the_page_shows_both_ways():
    assert ["torchax" in body for body in blocks("py")] == [False, False, False, True]
