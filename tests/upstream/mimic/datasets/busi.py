from dassl.data.datasets import DATASET_REGISTRY

from .shapes import Shapes


@DATASET_REGISTRY.register()
class BUSI(Shapes):
    """A name that our table has, too."""
