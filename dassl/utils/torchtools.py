"""Checkpoints: only tensors, numbers and strings, written whole or not at all, never unpickled freely."""

import contextlib
import pickle
import shutil
from collections import OrderedDict
from pathlib import Path

import torch
from torch import nn

from . import legacy
from .errors import MissingFile, UserError, unknown_name
from .io import atomic_path, write_text
from .tools import count_num_param

BEST = "model-best.pth.tar"
__all__ = [
    "count_num_param", "init_network_weights", "load_checkpoint", "load_pretrained_weights", "open_all_layers",
    "open_specified_layers", "resume_from_checkpoint", "save_checkpoint", "set_bn_to_eval",
]  # fmt: skip


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
    if target.name.startswith("model.pth.tar-"):  # the pointer says where to resume; by name, as upstream reads it
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
    except pickle.UnpicklingError:
        with contextlib.suppress(Exception):
            return legacy.read(fpath)
        raise _unreadable(fpath, "UnpicklingError") from None
    except Exception as error:
        raise _unreadable(fpath, type(error).__name__) from None


def _unreadable(fpath, kind):
    return UserError(
        f"{fpath} cannot be read: it is truncated or holds more than tensors and numbers ({kind}); delete it and "
        f"resume from an earlier one, or train again"
    )


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


def init_network_weights(model, init_type="normal", gain=0.02):
    """Initialise convolutions and linear layers: normal, xavier, kaiming, orthogonal; norms to one, biases to zero."""
    fill = {
        "normal": lambda w: nn.init.normal_(w, 0.0, gain),
        "xavier": lambda w: nn.init.xavier_normal_(w, gain=gain),
        "kaiming": lambda w: nn.init.kaiming_normal_(w, a=0, mode="fan_in"),
        "orthogonal": lambda w: nn.init.orthogonal_(w, gain=gain),
    }
    if init_type not in fill:
        raise unknown_name("init_type", init_type, fill)
    for module in model.modules():
        if isinstance(module, (nn.modules.conv._ConvNd, nn.Linear)):
            fill[init_type](module.weight)
        elif isinstance(module, (nn.modules.batchnorm._NormBase, nn.LayerNorm)) and module.weight is not None:
            nn.init.ones_(module.weight)
        if getattr(module, "bias", None) is not None and torch.is_tensor(module.bias):
            nn.init.zeros_(module.bias)


def set_bn_to_eval(module):
    """For model.apply(): running means stay as they are, weights are trained still."""
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        module.eval()


def open_all_layers(model):
    model.train()
    for p in model.parameters():
        p.requires_grad = True


def open_specified_layers(model, open_layers):
    """Train only the named top-level children (of what a DataParallel holds)."""
    model = model.module if isinstance(model, nn.DataParallel) else model
    wanted = [open_layers] if isinstance(open_layers, str) else list(open_layers)
    children = [name for name, _ in model.named_children()]
    for name in wanted:
        if name not in children:
            raise unknown_name("layer", name, children)
    for name, child in model.named_children():
        child.train(name in wanted)
        for p in child.parameters():
            p.requires_grad = name in wanted
