"""Named data sets as arrays in memory: `load` at run time, `python -m hessflat data prepare` once before."""

from hessflat.data.cache import prepared
from hessflat.data.loading import Dataset, load
from hessflat.data.scaling import SCALINGS
from hessflat.data.sources import SOURCES, Source
from hessflat.data.splits import ORDERS

__all__ = ["ORDERS", "SCALINGS", "SOURCES", "Dataset", "Source", "load", "prepared"]
