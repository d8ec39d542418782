"""Trainers: hooks, loop, checkpoints, results."""

from . import trainer
from .base import NonFiniteLoss, TrainerBase
from .build import TRAINER_REGISTRY, build_trainer
from .run_folder import claim_run_folder, config_hash
from .trainer import SimpleTrainer, TrainerX

__all__ = [
    "TRAINER_REGISTRY",
    "NonFiniteLoss",
    "SimpleTrainer",
    "TrainerBase",
    "TrainerX",
    "build_trainer",
    "claim_run_folder",
    "config_hash",
]


def __getattr__(name):
    return trainer.__getattr__(name, __name__)
