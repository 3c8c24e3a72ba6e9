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
    """Fields are a section of the docstring of their class, with their comments; doctests are a section of examples."""

    def on_class(self, *, cls: griffe.Class, **_: object) -> None:
        found = {name: (field, comment(field)) for name, field in cls.members.items() if is_field(field)}
        listed = [f"    {name} ({field.annotation}): {said}" for name, (field, said) in found.items() if said]
        if cls.docstring and listed:
            cls.docstring.value += "\n\nAttributes:\n" + "\n".join(listed)
            for name in found:
                cls.del_member(name)

    def on_instance(self, *, obj: griffe.Object, **_: object) -> None:
        if obj.docstring:
            obj.docstring.value = DOCTEST.sub(
                lambda found: "Examples:\n    " + found[0].replace("\n", "\n    "), obj.docstring.value
            )


def is_field(member: griffe.Object) -> bool:
    """Whether a member of a class is a value that each of its instances has."""
    return member.is_attribute and "instance-attribute" in member.labels and not member.name.startswith("_")


def comment(field: griffe.Attribute) -> str:
    """What stands behind a field, or on the lines right above it."""
    lines, row = field.lines_collection[field.filepath], field.lineno - 2
    above = []
    while lines[row].lstrip().startswith("# "):
        above.append(lines[row].strip().removeprefix("# "))
        row -= 1
    return field.lines[-1].partition("  # ")[2] or " ".join(reversed(above)) or FIELDS.get(field.name, "")
