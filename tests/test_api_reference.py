"""The reference has every public name, and says of each its arguments, their shapes, its errors and its source.

What is read here is what the site shows: sources with their docstrings, by Griffe.
"""

import importlib
import re
from pathlib import Path

import griffe
import pytest
from griffe import DocstringSectionKind as Kind

import hessflat
import hessflat.curvature as cv
from hessflat import plot

ROOT = Path(__file__).parents[1]
PUBLIC = [
    "hessflat.report.frames.Frames",  # which `hessflat.load` returns
    *(f"hessflat.{name}" for name in hessflat.__all__),
    *(f"hessflat.curvature.{name}" for name in cv.__all__),
    # A function hides the module of its name from Python, but not from what reads sources.
    *(f"hessflat.plot.{'blocks.blocks' if name == 'blocks' else name}" for name in plot.__all__),
]
# They refuse nothing by themselves: formulas, and what only writes down what it is given.
REFUSE_NOTHING = {
    *("curvature.spectrum_to_arrays", "logs.event_file"),
    *(f"plot.{name}" for name in ("as_png", "as_svg", "panels", "picture")),
}
# They compute what their first line defines, which is no result of a paper.
DEFINED_BY_THEMSELVES = {
    *("along", "block_diagonal_error", "block_spectra", "blocks", "check", "eigvalsh", "exact_spectrum", "from_matvec"),
    *("gradient", "gradient_covariance", "linearize", "minibatch_products", "minibatch_sharpness", "plan"),
    *("relative_distance", "restrict", "spectrum_from_arrays", "spectrum_to_arrays", "spread"),
    *(
        f"functionals.{name}"
        for name in ("effective_rank", "log_determinant", "participation_ratio", "require_positive")
    ),
}


def loaded():
    """The package as the site's reference reads it."""
    extensions = griffe.load_extensions(ROOT / "docs" / "site" / "docstrings.py")
    loader = griffe.GriffeLoader(
        extensions=extensions, search_paths=[ROOT], docstring_parser="google", allow_inspection=False
    )
    package = loader.load("hessflat")
    loader.resolve_aliases()
    return package


PACKAGE = loaded()


def members():
    """{name: object} of every public function and class, such as `curvature.trace`, and those of public modules."""
    found = {}
    for name in (path.removeprefix("hessflat.") for path in PUBLIC):
        target = PACKAGE[name]
        if target.is_module:
            own = {inner: one for inner, one in target.members.items() if not one.is_alias and inner[0] != "_"}
            found |= {f"{target.name}.{inner}": one for inner, one in own.items() if one.is_function or one.is_class}
        else:
            found[name] = target.final_target if target.is_alias else target
    return found


MEMBERS = members()
FUNCTIONS = {name: found for name, found in MEMBERS.items() if found.is_function}
CLASSES = {name: found for name, found in MEMBERS.items() if found.is_class}


def sections(found, kind):
    """What the sections of a kind of a docstring hold."""
    return [entry for section in found.docstring.parsed if section.kind is kind for entry in section.value]


def test_every_public_name_is_on_one_page_of_the_reference():
    pages = sorted((ROOT / "docs" / "api").glob("*.md"))
    named = [name for page in pages for name in re.findall(r"^::: (\S+)$", page.read_text(), re.MULTILINE)]
    assert sorted(named) == sorted(PUBLIC)
    assert len(MEMBERS) > len(PUBLIC)  # those of modules


@pytest.mark.parametrize(("name", "function"), FUNCTIONS.items(), ids=FUNCTIONS)
def test_a_function_says_what_it_takes_and_gives(name, function):
    asked = {parameter.name.lstrip("*") for parameter in function.parameters}
    described = {entry.name.lstrip("*"): entry.description for entry in sections(function, Kind.parameters)}
    assert described.keys() == asked
    assert all(described.values())
    for argument in described.keys() & {"params", "data", "vector", "values", "alphas", "a", "b", "origin"}:
        assert re.search(r"tree|\[|as in|operator|another", described[argument]) or name.startswith("plot."), (
            f"{argument} has no shape"
        )
    assert function.returns is not None


@pytest.mark.parametrize(("name", "function"), FUNCTIONS.items(), ids=FUNCTIONS)
def test_a_function_says_what_it_refuses(name, function):
    raised = {str(entry.annotation): entry.description for entry in sections(function, Kind.raises)}
    if name in REFUSE_NOTHING:
        assert not raised
        assert not re.search(r"\braise\b|\brequire_", function.source)
    else:
        assert raised["InputError"]


@pytest.mark.parametrize(("name", "found"), CLASSES.items(), ids=CLASSES)
def test_a_record_says_what_its_fields_are(name, found):
    described = {entry.name: entry for kind in (Kind.parameters, Kind.attributes) for entry in sections(found, kind)}
    module = importlib.import_module(found.parent.path)
    fields = {field for field in getattr(module, found.name).__annotations__ if not field.startswith("_")}
    constants = {field for field in fields if "ClassVar" in str(getattr(module, found.name).__annotations__[field])}
    assert fields - constants <= described.keys()
    for field in described.values():
        if re.search("ndarray|Array", str(field.annotation)):
            assert re.search(r"\[.*\]|tree|Uᵀ|scalars", field.description), f"{field.name} has no shape"
    for method in found.functions.values():
        assert method.name.startswith("_") or method.docstring, method.name


def test_a_method_of_a_paper_names_it():
    for name, function in FUNCTIONS.items():
        if name.startswith(("curvature.", "edges.", "functionals.")):
            cites = re.search(r"\b(?:19|20)\d\d\b", function.docstring.value)
            assert bool(cites) == (name.removeprefix("curvature.") not in DEFINED_BY_THEMSELVES), name


def test_comments_on_fields_and_doctests_are_sections():
    fields = {entry.name: entry.description for entry in sections(MEMBERS["curvature.Tridiagonals"], Kind.attributes)}
    assert fields["alphas"] == "[k, m], zero from num_valid on"
    assert fields["num_products"] == "products of the matrix with a vector that it took"
    above = {entry.name: entry.description for entry in sections(MEMBERS["curvature.EigenPairs"], Kind.attributes)}
    assert above["converged"].startswith("[k] residual within rtol |value|, or within rounding at the scale")
    assert MEMBERS["curvature.batch_sharpness"].docstring.parsed[-1].kind is Kind.examples
