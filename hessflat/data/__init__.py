"""Named data sets as arrays in memory: `load` at run time, `python -m hessflat data prepare` once before."""

from hessflat.data.cache import prepared_names
from hessflat.data.loading import ORDERS, SCALINGS, DataOptions, Dataset, load
from hessflat.data.published import PUBLISHED
from hessflat.data.sources import SOURCES, Source

__all__ = ["ORDERS", "PUBLISHED", "SCALINGS", "SOURCES", "DataOptions", "Dataset", "Source", "load", "prepared_names"]
