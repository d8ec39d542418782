"""The precision a tower encodes in."""

import functools

import torch


def own_precision(encode):
    """A tower's `encode` under autocast to its `autocast` (a dtype; None: without), whatever surrounds the call.

    Features leave it as float32.
    """

    @functools.wraps(encode)
    def features(tower, *args, **kwargs):
        device = next(tower.parameters()).device.type
        with torch.autocast(device, dtype=tower.autocast, enabled=tower.autocast is not None):
            return encode(tower, *args, **kwargs).float()

    return features
