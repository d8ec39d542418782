"""The methods. Importing this package registers all of them in dassl.engine.TRAINER_REGISTRY."""

from yacs.config import CfgNode

from dassl.engine import TRAINER_REGISTRY

from . import (  # noqa: F401
    biomedcoop,
    biomeddpt,
    cilmp,
    clip_adapter,
    clip_lora,
    clip_svd,
    cocoop,
    coop,
    finetune,
    ivlp,
    kgcoop,
    linear_probe,
    lp2,
    maple,
    prograd,
    promptsrc,
    ss_text,
    tip_adapter,
    vpt,
    zsclip,
    zsclip2,
)
from .base import Context, Learner, PromptTrainer


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
