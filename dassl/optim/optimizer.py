"""build_optimizer: adam, amsgrad, sgd, rmsprop, radam, adamw - all torch's own."""

import warnings

import torch
from torch import nn

from dassl.utils.errors import unknown_name

NAMES = ("adam", "amsgrad", "sgd", "rmsprop", "radam", "adamw")


def build_optimizer(model, optim_cfg, param_groups=None):
    """Optimiser over a module's trainable parameters, or over an iterable of parameters.

    Args:
        model: nn.Module or iterable of parameters.
        optim_cfg: the node OPTIM.
        param_groups: replaces both if given.

    Raises:
        UnknownName: OPTIM.NAME is not one of NAMES.
    """
    name, lr, decay = optim_cfg.NAME, optim_cfg.LR, optim_cfg.WEIGHT_DECAY
    if name not in NAMES:
        raise unknown_name("optimiser OPTIM.NAME", name, NAMES)
    params = param_groups if param_groups is not None else _parameters(model, optim_cfg)
    if param_groups is not None and optim_cfg.STAGED_LR:
        warnings.warn("OPTIM.STAGED_LR is ignored because parameter groups are given", stacklevel=2)
    betas = (optim_cfg.ADAM_BETA1, optim_cfg.ADAM_BETA2)
    if name == "sgd":
        return torch.optim.SGD(
            params,
            lr=lr,
            momentum=optim_cfg.MOMENTUM,
            weight_decay=decay,
            dampening=optim_cfg.SGD_DAMPNING,
            nesterov=optim_cfg.SGD_NESTEROV,
        )
    if name == "rmsprop":
        return torch.optim.RMSprop(
            params, lr=lr, momentum=optim_cfg.MOMENTUM, weight_decay=decay, alpha=optim_cfg.RMSPROP_ALPHA
        )
    if name in ("adam", "amsgrad"):
        return torch.optim.Adam(params, lr=lr, weight_decay=decay, betas=betas, amsgrad=name == "amsgrad")
    kind = torch.optim.RAdam if name == "radam" else torch.optim.AdamW
    return kind(params, lr=lr, weight_decay=decay, betas=betas)


def _parameters(model, optim_cfg):
    if not isinstance(model, nn.Module):
        return list(model)
    if not optim_cfg.STAGED_LR:
        return [p for p in model.parameters() if p.requires_grad] or list(model.parameters())
    new = set(optim_cfg.NEW_LAYERS)
    groups = {True: [], False: []}
    for name, child in model.named_children():
        groups[name in new] += list(child.parameters())
    return [
        {"params": groups[False], "lr": optim_cfg.LR * optim_cfg.BASE_LR_MULT},
        {"params": groups[True]},
    ]
