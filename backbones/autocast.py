"""The precision a tower encodes in."""

import contextlib
import functools

import torch


@contextlib.contextmanager
def no_tf32():
    """Convolutions in float32 where they are of float32: PyTorch lets cuDNN round to TF32, its products not."""
    before, torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.allow_tf32, False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def own_precision(encode):
    """A tower's `encode` under autocast to its `autocast` (a dtype; None: without), whatever surrounds the call.

    Features leave it as float32, one tensor or several.
    """

    @functools.wraps(encode)
    def features(tower, *args, **kwargs):
        device = next(tower.parameters()).device.type
        with torch.autocast(device, dtype=tower.autocast, enabled=tower.autocast is not None), no_tf32():
            found = encode(tower, *args, **kwargs)
        return found.float() if torch.is_tensor(found) else tuple(x.float() for x in found)

    return features
