"""What a checkpoint holds beside the learned tensors: everything that makes a resumed run end bit-equal."""

import random
from pathlib import Path

import numpy as np
import torch

from dassl.utils.errors import UserError
from dassl.utils.torchtools import load_checkpoint

PREFIX = "model.pth.tar-"
INTERRUPTED = "interrupted.pth.tar"  # written in the middle of an epoch, dropped by the next whole one


def rng_state():
    """States of Python's, numpy's and torch's generators as tensors and numbers."""
    version, words, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state()
    state = {
        "python": {"version": version, "words": list(words), "gauss": gauss},
        "numpy": {
            "name": name,
            "keys": torch.from_numpy(keys.astype(np.int64)),
            "position": int(position),
            "has_gauss": int(has_gauss),
            "cached": float(cached),
        },
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def set_rng_state(state):
    python, numpy = state["python"], state["numpy"]
    random.setstate((python["version"], tuple(python["words"]), python["gauss"]))
    keys = numpy["keys"].numpy().astype(np.uint32)
    np.random.set_state((numpy["name"], keys, numpy["position"], numpy["has_gauss"], numpy["cached"]))
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])


def frozen_names(model):
    """Names of the parameters that are not trained: a checkpoint leaves them out."""
    return {n for n, p in model.named_parameters(remove_duplicate=False) if not p.requires_grad}


def model_state(model):
    """Learned tensors of a model: its own `checkpoint_state()`, else the state dict without frozen parameters."""
    if hasattr(model, "checkpoint_state"):
        return model.checkpoint_state()
    frozen = frozen_names(model)
    return {k: v for k, v in model.state_dict().items() if k not in frozen}


def load_model_state(model, state, path):
    """Load what model_state() gave; a state with the frozen parameters in it (upstream's) is taken as well.

    Raises:
        UserError: a tensor is missing, left over or of another shape.
    """
    if hasattr(model, "load_checkpoint_state"):
        return model.load_checkpoint_state(state)
    own = model.state_dict()
    missing, extra = own.keys() - state.keys() - frozen_names(model), state.keys() - own.keys()
    if missing or extra:
        names = sorted(missing | extra)
        listing = f"{', '.join(names[:4])}{' ...' if len(names) > 4 else ''}"
        raise UserError(f"{path} does not fit this model: {listing} on one side only; use the run's own config.yaml")
    for name, value in state.items():
        if tuple(value.shape) != tuple(own[name].shape):
            raise UserError(
                f"{path} does not fit this model: {name} is {tuple(value.shape)} there, {tuple(own[name].shape)} here "
                f"(other classes, backbone or prompt length?); use the run's own config.yaml"
            )
    return model.load_state_dict(state, strict=False)


def last_common_checkpoint(folders):
    """Checkpoint paths of the highest epoch that every folder has readable, or None.

    A broken newest file is passed over; so is one that a kill left without its sister of another model.
    """
    epochs = [_epochs(folder) for folder in folders]
    for epoch in sorted(set.intersection(*epochs), reverse=True) if epochs else ():
        paths = [Path(folder) / f"{PREFIX}{epoch}" for folder in folders]
        try:
            for path in paths:
                load_checkpoint(path)
            return paths
        except UserError as error:
            print(f"passing over a checkpoint: {error}")
    return None


def newest(whole, interrupted):
    """`interrupted` (paths of checkpoints in the middle of an epoch) where all are readable and none is of an epoch
    before that of `whole`; else `whole`."""
    try:
        states = [load_checkpoint(path) for path in interrupted]
    except UserError:
        return whole
    done = load_checkpoint(whole[0])["epoch"] if whole else 0
    steps = {(state["epoch"], state.get("batch")) for state in states}
    return interrupted if len(steps) == 1 and states[0]["epoch"] >= done else whole


def _epochs(folder):
    found = (p.name.removeprefix(PREFIX) for p in Path(folder).glob(f"{PREFIX}*"))
    return {int(epoch) for epoch in found if epoch.isdigit()}
