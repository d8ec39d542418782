"""Registry of data sets, and the two classes every reader is made of."""

from .base_dataset import DatasetBase, Datum
from .build import DATASET_REGISTRY, build_dataset, set_fallback

__all__ = ["DATASET_REGISTRY", "DatasetBase", "Datum", "build_dataset", "set_fallback"]
