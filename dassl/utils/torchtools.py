"""Checkpoints: only tensors, numbers and strings, written whole or not at all, never unpickled freely."""

import shutil
from collections import OrderedDict
from pathlib import Path

import torch

from .errors import MissingFile, UserError
from .io import atomic_path, write_text

BEST = "model-best.pth.tar"


def save_checkpoint(state, save_dir, is_best=False, remove_module_from_keys=True, model_name=""):
    """Write save_dir/model.pth.tar-<epoch> (or model_name) and the pointer file `checkpoint`.

    Args:
        state: dict with state_dict, epoch (1-based) and what else belongs to the run.
        is_best: also copy to model-best.pth.tar.
    """
    state = dict(state)
    if remove_module_from_keys:
        state["state_dict"] = OrderedDict((k.removeprefix("module."), v) for k, v in state["state_dict"].items())
    folder = Path(save_dir)
    target = folder / (model_name or f"model.pth.tar-{state['epoch']}")
    with atomic_path(target) as temporary:
        torch.save(state, temporary)
    if target.name != BEST:  # the pointer says where to resume
        write_text(target.name + "\n", folder / "checkpoint")
    print(f"Checkpoint saved to {target}")
    if is_best:
        with atomic_path(folder / BEST) as temporary:
            shutil.copy(target, temporary)
        print(f"Best checkpoint saved to {folder / BEST}")


def load_checkpoint(fpath):
    """The dict in a checkpoint, on the CPU.

    Raises:
        MissingFile: no such file. UserError: truncated, or not a checkpoint of tensors and numbers.
    """
    if fpath is None:
        raise ValueError("File path is None")
    if not Path(fpath).is_file():
        raise MissingFile(f"no checkpoint at {fpath}")
    try:
        return torch.load(fpath, map_location="cpu", weights_only=True)
    except Exception as error:
        raise UserError(
            f"{fpath} cannot be read: it is truncated or holds more than tensors and numbers "
            f"({type(error).__name__}); delete it and resume from an earlier one, or train again"
        ) from None


def resume_from_checkpoint(fdir, model, optimizer=None, scheduler=None):
    """Load what the pointer file in fdir names into model, optimiser and schedule; returns the next epoch."""
    pointer = Path(fdir) / "checkpoint"
    if not pointer.is_file():
        raise MissingFile(f"no checkpoint pointer {pointer}")
    checkpoint = load_checkpoint(Path(fdir) / pointer.read_text().strip())
    model.load_state_dict(checkpoint["state_dict"])
    if optimizer is not None and checkpoint.get("optimizer"):
        optimizer.load_state_dict(checkpoint["optimizer"])
    if scheduler is not None and checkpoint.get("scheduler"):
        scheduler.load_state_dict(checkpoint["scheduler"])
    return checkpoint["epoch"]


def load_pretrained_weights(model, weight_path):
    """Copy the entries whose name and size match; says so when none does."""
    checkpoint = load_checkpoint(weight_path)
    state, own = checkpoint.get("state_dict", checkpoint), model.state_dict()
    state = {k.removeprefix("module."): v for k, v in state.items()}
    matched = {k: v for k, v in state.items() if k in own and own[k].shape == v.shape}
    if not matched:
        raise UserError(f"no tensor in {weight_path} fits the model by name and size")
    own.update(matched)
    model.load_state_dict(own)
    print(f"Loaded {len(matched)} of {len(state)} tensors from {weight_path}")


def open_all_layers(model):
    model.train()
    for p in model.parameters():
        p.requires_grad = True


def open_specified_layers(model, open_layers):
    """Train only the named top-level children."""
    wanted = [open_layers] if isinstance(open_layers, str) else list(open_layers)
    for name, child in model.named_children():
        child.train(name in wanted)
        for p in child.parameters():
            p.requires_grad = name in wanted
