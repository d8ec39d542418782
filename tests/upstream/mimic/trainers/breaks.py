from dassl.engine import TRAINER_REGISTRY

from .coop import CoOp


@TRAINER_REGISTRY.register()
class Breaks(CoOp):
    """Fails in the middle."""

    def build_model(self):
        raise KeyError("phantom")
