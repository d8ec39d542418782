"""The trainer registry and its factory."""

from dassl.utils.errors import unknown_name
from dassl.utils.registry import Registry

TRAINER_REGISTRY = Registry("TRAINER")


def build_trainer(cfg):
    """The trainer TRAINER.NAME, built on cfg. Raises UnknownName with the nearest name."""
    if cfg.TRAINER.NAME not in TRAINER_REGISTRY:
        raise unknown_name("trainer", cfg.TRAINER.NAME, TRAINER_REGISTRY.registered_names())
    if cfg.VERBOSE:
        print(f"Loading trainer: {cfg.TRAINER.NAME}")
    return TRAINER_REGISTRY.get(cfg.TRAINER.NAME)(cfg)
