"""The methods, found here: importing this package registers those of all its files in dassl.engine.TRAINER_REGISTRY."""

import importlib
import pkgutil

from yacs.config import CfgNode

from dassl.engine import TRAINER_REGISTRY

from .base import Context, Learner, PromptTrainer

for _info in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_info.name}")


def methods():
    """{name: trainer class} of the registered methods built on PromptTrainer."""
    found = {n: TRAINER_REGISTRY.get(n) for n in TRAINER_REGISTRY.registered_names()}
    return {n: t for n, t in found.items() if isinstance(t, type) and issubclass(t, PromptTrainer)}


def extend_cfg(cfg):
    """Add the node TRAINER.<METHOD> of every registered method, filled with its defaults."""
    for trainer in methods().values():
        node = trainer.node_name()
        if node not in cfg.TRAINER:
            cfg.TRAINER[node] = CfgNode(dict(trainer.defaults))


__all__ = ["Context", "Learner", "PromptTrainer", "extend_cfg", "methods"]
