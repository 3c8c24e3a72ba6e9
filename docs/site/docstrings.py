"""An extension of Griffe: comments on fields, and doctests, of the library's source are in the reference too."""

import re

import griffe

# What these say is the same for every record.
FIELDS = {
    "num_products": "products of the matrix with a vector that it took",
    "seconds": "wall time of the measurement, compilation included",
    "precision": "of products of matrices: highest, high or default",
}
DOCTEST = re.compile(r"^>>> .*\Z", re.MULTILINE | re.DOTALL)


class Comments(griffe.Extension):
    """The comment on a field, behind it or on the lines above, is its docstring; doctests are a section of examples."""

    def on_attribute_instance(self, *, attr: griffe.Attribute, **_: object) -> None:
        if attr.docstring is None and attr.parent.is_class and attr.lines:
            comment = attr.lines[-1].partition("  # ")[2] or above(attr) or FIELDS.get(attr.name)
            if comment:
                attr.docstring = griffe.Docstring(comment, parent=attr)

    def on_instance(self, *, obj: griffe.Object, **_: object) -> None:
        if obj.docstring:
            obj.docstring.value = DOCTEST.sub(
                lambda found: "Examples:\n    " + found[0].replace("\n", "\n    "), obj.docstring.value
            )


def above(attr: griffe.Attribute) -> str:
    """The lines of comment right above a field, as one."""
    lines, row = attr.lines_collection[attr.filepath], attr.lineno - 2
    found = []
    while lines[row].lstrip().startswith("# "):
        found.append(lines[row].strip().removeprefix("# "))
        row -= 1
    return " ".join(reversed(found))
