"""The protocols: one file each, found here. `PROTOCOLS` is {name: Protocol}."""

import importlib
import pkgutil

from .base import Protocol
from .spec import RunSpec, in_words

PROTOCOLS = {}
for _info in pkgutil.iter_modules(__path__):
    _module = importlib.import_module(f"{__name__}.{_info.name}")
    if hasattr(_module, "PROTOCOL"):
        _module.PROTOCOL.name = _info.name
        PROTOCOLS[_info.name] = _module.PROTOCOL


def protocol(name):
    """The Protocol of that name; UnknownName with the nearest."""
    from dassl.utils.errors import unknown_name

    if name not in PROTOCOLS:
        raise unknown_name("protocol", name, PROTOCOLS)
    return PROTOCOLS[name]


__all__ = ["PROTOCOLS", "Protocol", "RunSpec", "in_words", "protocol"]
