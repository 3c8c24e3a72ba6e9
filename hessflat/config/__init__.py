"""Settings: their defaults, ranges and meanings, the configurations made from them, and sweeps over them."""

from hessflat.config.core import (
    Overrides,
    Settings,
    builders,
    canonical_json,
    config_dict,
    fingerprint,
    flatten,
    freeze,
    from_plain,
    get,
    make_block,
    override,
    plain,
    schema,
    thaw,
)
from hessflat.config.files import SCALES, find_module, from_command_line, load_module, split_target, with_arguments
from hessflat.config.sweeps import chain, product, zip_

__all__ = [
    "SCALES",
    "Overrides",
    "Settings",
    "builders",
    "canonical_json",
    "chain",
    "config_dict",
    "find_module",
    "fingerprint",
    "flatten",
    "freeze",
    "from_command_line",
    "from_plain",
    "get",
    "load_module",
    "make_block",
    "override",
    "plain",
    "product",
    "schema",
    "split_target",
    "thaw",
    "with_arguments",
    "zip_",
]
