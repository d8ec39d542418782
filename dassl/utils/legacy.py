"""Checkpoints that upstream's Dassl wrote with a warm-up, read without running any of their code.

They pickle the inner schedule as an object, and with it the optimiser. torch's safe loader refuses those classes;
here it gets empty stand-ins for exactly these names, and what they carried becomes plain numbers.
"""

import torch

_SCHEDULES = ("CosineAnnealingLR", "StepLR", "MultiStepLR", "ConstantLR", "LinearLR")
_OPTIMISERS = ("sgd.SGD", "adam.Adam", "adamw.AdamW", "rmsprop.RMSprop", "radam.RAdam")


class _StandIn:
    """Takes the attributes of a pickled object and does nothing."""

    def __setstate__(self, state):
        self.__dict__.update(state)


def _stand_in(name):
    return type(name.rsplit(".", 1)[1], (_StandIn,), {}), name


def read(path):
    """The checkpoint, its schedule as the plain numbers that our warm-up schedules load.

    Raises whatever torch.load raises for classes other than schedules and optimisers.
    """
    from collections import Counter

    names = [f"torch.optim.lr_scheduler.{n}" for n in _SCHEDULES] + [f"torch.optim.{n}" for n in _OPTIMISERS]
    names += ["dassl.optim.radam.RAdam", "dassl.optim.radam.AdamW"]
    known = [_stand_in(n) for n in names] + [(_plain_dict, "collections.defaultdict"), Counter, dict]
    with torch.serialization.safe_globals(known):
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    schedule = checkpoint.get("scheduler")
    if isinstance(schedule, dict) and isinstance(schedule.get("successor"), _StandIn):
        inner = {k: v for k, v in vars(schedule["successor"]).items() if _plain(v)}
        checkpoint["scheduler"] = {k: v for k, v in schedule.items() if _plain(v)} | {"successor": inner}
    return checkpoint


def _plain_dict(default=None):
    """Stands in for defaultdict, which the safe loader does not fill."""
    return {}


def _plain(value):
    return isinstance(value, (int, float, str, list, tuple))
