"""Named data sets as arrays in memory: `load` at run time, `python -m hessflat data prepare` once before."""

from hessflat.data.cache import prepared_names
from hessflat.data.loading import ORDERS, SCALINGS, DataOptions, Dataset, load
from hessflat.data.published import PUBLISHED
from hessflat.data.sources import SOURCES, Source, are_tokens

__all__ = [
    "ORDERS",
    "PUBLISHED",
    "SCALINGS",
    "SOURCES",
    "DataOptions",
    "Dataset",
    "Source",
    "are_tokens",
    "load",
    "prepared_names",
]
