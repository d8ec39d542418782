"""Learning rates that are stepped every step."""

import math

import torch


def cosine_over_steps(optimizer, steps, warmup=0, end=0.0):
    """Schedule stepped every step: linear over `warmup` steps, then a cosine that ends at `end` of the rate."""

    def factor(step):
        if step < warmup:
            return (step + 1) / warmup
        done = min((step - warmup) / max(steps - warmup, 1), 1)
        return end + (1 - end) * 0.5 * (1 + math.cos(math.pi * done))

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
