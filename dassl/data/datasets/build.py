"""The registry of data sets and its factory."""

from dassl.utils.errors import ConfigError
from dassl.utils.registry import Registry

from .subset import ensured

DATASET_REGISTRY = Registry("DATASET")
_fallback = None


def set_fallback(find):
    """Register `find(name, cfg) -> class` for names that are not in the registry (it raises for unknown ones)."""
    global _fallback
    _fallback = find


def build_dataset(cfg):
    """The data set named DATASET.NAME."""
    name = cfg.DATASET.NAME
    if name in DATASET_REGISTRY or _fallback is None:
        reader = DATASET_REGISTRY.get(name)
    else:
        reader = _fallback(name, cfg)
    if cfg.VERBOSE:
        print(f"Loading dataset: {name}")
    dataset = reader(cfg)
    if cfg.DATASET.TEST_ON and getattr(dataset, "tested_on", "") != cfg.DATASET.TEST_ON:
        raise ConfigError(f"{name}: its reader does not know DATASET.TEST_ON, so it would be tested on its own images")
    return ensured(dataset, cfg, reader)
