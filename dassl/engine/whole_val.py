"""What a trained model says of the split's whole val part, few-shot or not: what calibration is fitted on.

Of images that nothing was trained on, so they may say how far probabilities can be believed; those that chose something
(`used`: a best epoch, a method's own search) are marked. Test is not looked at.
"""

from pathlib import Path

import numpy as np
import torch

from dassl.evaluation import build_evaluator
from dassl.evaluation.figures import WHOLE_VAL as NAME
from dassl.utils.errors import UserError

from .checkpoint import rng_state, set_rng_state
from .results import save_predictions


def keep(trainer):
    """Write predictions_whole_val.npz into the run's folder, if there is such a part; what a run is stays the same."""
    before = rng_state()
    try:
        items = whole_val(trainer.cfg, trainer.dm.dataset)
        paths, labels, predictions, probabilities = predicted(trainer, items)
    except UserError as error:
        print(f"no {NAME}, so no calibration: {error}")
        return
    finally:
        set_rng_state(before)
    names = [trainer.lab2cname[label] for label in sorted(trainer.lab2cname)]
    chose = {item.impath for item in choosing(trainer.cfg.TEST.FINAL_MODEL, trainer, trainer.dm.dataset)}
    used = np.array([path in chose for path in paths] or [bool(chose)] * len(labels))
    save_predictions(Path(trainer.output_dir) / NAME, names, paths, labels, predictions, probabilities,
                     groups_of(trainer.dm.dataset, paths), used=used)  # fmt: skip


def whole_val(cfg, dataset):
    """[Datum] of the whole val part, in the run's classes.

    Raises:
        UserError: there is none, or the reader does not say what it is.
    """
    found = getattr(dataset, "whole_val", None)
    if found is None and cfg.DATASET.NUM_SHOTS < 1:
        found = dataset.val or []
    if found is None:
        raise UserError(f"the reader of {cfg.DATASET.NAME} gives the few-shot val only (no `whole_val`)")
    if not found:
        raise UserError(f"{cfg.DATASET.NAME} has no val part")
    return found


def choosing(final_model, trainer, dataset):
    """[Datum] that chose the model: the run's val, where its best epoch counts or its method searches on it."""
    chose = final_model == "best_val" or getattr(trainer, "fits_on_val", False)
    return (dataset.val or []) if chose else []


def groups_of(dataset, paths):
    """Patients (lesions ...) of images, an image's own path where it has none; None where none are known."""
    groups = getattr(dataset, "groups", None)
    return [groups.get(p, p) for p in paths] if groups and paths else None


@torch.no_grad()
def predicted(trainer, items):
    """(paths, labels, predictions, probabilities) of items, by the model as it is.

    Raises:
        UserError: an image can't be read, or the data manager makes no such loader.
    """
    if not hasattr(trainer.dm, "held_out"):
        raise UserError(f"{type(trainer.dm).__name__} makes no loader of other images (no `held_out`)")
    evaluator, paths = build_evaluator(trainer.cfg, lab2cname=trainer.lab2cname), []
    for outputs, labels, batch in trainer.test_outputs(trainer.held_out(items)):
        evaluator.process(outputs, labels)
        paths += batch.get("impath", ()) if isinstance(batch, dict) else ()  # a plugin's batch may be a tuple
    return paths, *evaluator.predictions()
