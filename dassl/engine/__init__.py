"""Trainers: hooks, loop, checkpoints, results."""

from .build import TRAINER_REGISTRY, build_trainer
from .run_folder import claim_run_folder, config_hash
from .trainer import SimpleTrainer, TrainerBase, TrainerX

__all__ = [
    "TRAINER_REGISTRY",
    "SimpleTrainer",
    "TrainerBase",
    "TrainerX",
    "build_trainer",
    "claim_run_folder",
    "config_hash",
]
