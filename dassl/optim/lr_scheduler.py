"""Schedules stepped once an epoch, with upstream's warm-up.

During epochs 0..w-1 the rate is constant or rises linearly; at epoch w the inner schedule *starts*, so epoch
e >= w is the inner schedule's epoch e - w and a cosine over E epochs does not reach its end (upstream's habit,
which published numbers share).
"""

from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, MultiStepLR, StepLR

from dassl.utils.errors import unknown_name

SCHEDULES = ("single_step", "multi_step", "cosine")


class _Warmup(LRScheduler):
    """Base of the warm-ups; its state is plain numbers, the inner schedule's counters included."""

    def __init__(self, optimizer, successor, warmup_epoch, last_epoch=-1, verbose=None):
        self.successor, self.warmup_epoch = successor, warmup_epoch
        super().__init__(optimizer, last_epoch)

    def get_lr(self):
        if self.last_epoch >= self.warmup_epoch:
            return self.successor.get_last_lr()
        return self.warmup_lr()

    def step(self, epoch=None):
        if self.last_epoch >= self.warmup_epoch:
            self.successor.step()
            self._last_lr = self.successor.get_last_lr()
            self.last_epoch += 1
        else:
            super().step()

    def state_dict(self):
        own = {"last_epoch": self.last_epoch, "_last_lr": list(self._last_lr)}
        inner = {k: v for k, v in self.successor.state_dict().items() if isinstance(v, (int, float, list))}
        return {**own, "successor": inner}

    def load_state_dict(self, state):
        self.last_epoch, self._last_lr = state["last_epoch"], list(state["_last_lr"])
        self.successor.load_state_dict(state["successor"])


class ConstantWarmupScheduler(_Warmup):
    """Constant rate during warm-up."""

    def __init__(self, optimizer, successor, warmup_epoch, cons_lr, last_epoch=-1, verbose=None):
        self.cons_lr = cons_lr
        super().__init__(optimizer, successor, warmup_epoch, last_epoch)

    def warmup_lr(self):
        return [self.cons_lr for _ in self.base_lrs]


class LinearWarmupScheduler(_Warmup):
    """min_lr in epoch 0, then base_lr * e / w."""

    def __init__(self, optimizer, successor, warmup_epoch, min_lr, last_epoch=-1, verbose=None):
        self.min_lr = min_lr
        super().__init__(optimizer, successor, warmup_epoch, last_epoch)

    def warmup_lr(self):
        if self.last_epoch == 0:
            return [self.min_lr for _ in self.base_lrs]
        return [lr * self.last_epoch / self.warmup_epoch for lr in self.base_lrs]


def build_lr_scheduler(optimizer, optim_cfg):
    """The schedule OPTIM.LR_SCHEDULER, wrapped in a warm-up if OPTIM.WARMUP_EPOCH > 0."""
    kind, epochs, steps = optim_cfg.LR_SCHEDULER, optim_cfg.MAX_EPOCH, optim_cfg.STEPSIZE
    if kind not in SCHEDULES:
        raise unknown_name("schedule OPTIM.LR_SCHEDULER", kind, SCHEDULES)
    if kind == "single_step":
        size = steps[-1] if isinstance(steps, (list, tuple)) else steps
        inner = StepLR(optimizer, step_size=int(size) if size > 0 else epochs, gamma=optim_cfg.GAMMA)
    elif kind == "multi_step":
        inner = MultiStepLR(optimizer, milestones=list(steps), gamma=optim_cfg.GAMMA)
    else:
        inner = CosineAnnealingLR(optimizer, float(epochs))
    w = optim_cfg.WARMUP_EPOCH
    if w <= 0:
        return inner
    if not optim_cfg.WARMUP_RECOUNT:
        inner.last_epoch = w
    if optim_cfg.WARMUP_TYPE == "constant":
        return ConstantWarmupScheduler(optimizer, inner, w, optim_cfg.WARMUP_CONS_LR)
    if optim_cfg.WARMUP_TYPE == "linear":
        return LinearWarmupScheduler(optimizer, inner, w, optim_cfg.WARMUP_MIN_LR)
    raise unknown_name("warm-up OPTIM.WARMUP_TYPE", optim_cfg.WARMUP_TYPE, ("constant", "linear"))
