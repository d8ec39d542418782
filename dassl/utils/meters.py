"""Running values; 0-d tensors are kept on their device and read only when printed."""

from collections import defaultdict

import torch


class AverageMeter:
    """val, sum, count, avg of a series; `ema` keeps an exponential mean instead."""

    def __init__(self, ema=False):
        self.ema = ema
        self.reset()

    def reset(self):
        self.val, self.sum, self.count, self.avg = 0.0, 0.0, 0, 0.0

    def update(self, val, n=1):
        val = val.detach() if torch.is_tensor(val) else val
        self.val, self.sum, self.count = val, self.sum + val * n, self.count + n
        self.avg = self.avg * 0.9 + val * 0.1 if self.ema else self.sum / self.count


class MetricMeter:
    """A dict of AverageMeters; str() reads them: "name val (avg)" with four decimals."""

    def __init__(self, delimiter=" "):
        self.meters, self.delimiter = defaultdict(AverageMeter), delimiter

    def update(self, values):
        if values is None:
            return
        if not isinstance(values, dict):
            raise TypeError(f"MetricMeter takes a dict of scalars, got {type(values).__name__}")
        for name, value in values.items():
            self.meters[name].update(value)

    def __str__(self):
        return self.delimiter.join(f"{n} {float(m.val):.4f} ({float(m.avg):.4f})" for n, m in self.meters.items())
