"""docs/pytorch.md runs where PyTorch is installed: the curvature of a module agrees with PyTorch's own within 1e-5."""

import contextlib
import io
import re
from pathlib import Path

import jax
import pytest

PAGE = Path(__file__).parents[1] / "docs" / "pytorch.md"


BLOCKS = re.findall(r"^```py\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)


@pytest.mark.slow
def test_the_curvature_of_a_module_agrees_with_torch():
    pytest.importorskip("torch", reason="PyTorch is not installed")
    names, printed = {"__name__": "page"}, io.StringIO()
    with contextlib.redirect_stdout(printed), jax.numpy_rank_promotion("allow"):
        for body in BLOCKS:
            exec(compile(body, PAGE.name, "exec"), names)
    assert printed.getvalue() == "twin: 157 eigenvalues, within 1e-5 of λ_max\n"
