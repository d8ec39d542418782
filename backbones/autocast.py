"""The precision a tower encodes in."""

import functools

import torch


def own_precision(encode):
    """A tower's `encode` under autocast to its `autocast` (a dtype; None: without), whatever surrounds the call.

    Features leave it as float32, one tensor or several.
    """

    @functools.wraps(encode)
    def features(tower, *args, **kwargs):
        device = next(tower.parameters()).device.type
        with torch.autocast(device, dtype=tower.autocast, enabled=tower.autocast is not None):
            found = encode(tower, *args, **kwargs)
        return found.float() if torch.is_tensor(found) else tuple(x.float() for x in found)

    return features
