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


def laid_over(optimizer, build, epochs, steps):
    """Schedule stepped every step: in step s of `steps` the rate that build(optimizer), stepped every epoch, has in
    epoch floor(s epochs / steps): warm-up, milestones and cosine keep their shares of the training."""
    twin = torch.optim.SGD([{"params": [torch.zeros(1)], "lr": g["lr"]} for g in optimizer.param_groups], lr=0.0)
    own, rates = build(twin), []
    for _ in range(epochs):
        rates.append([g["lr"] for g in twin.param_groups])
        twin.step()
        own.step()

    def factor(group, base):
        return lambda step: rates[min(step * epochs // steps, epochs - 1)][group] / base if base else 1.0

    factors = [factor(i, g["lr"]) for i, g in enumerate(optimizer.param_groups)]
    return torch.optim.lr_scheduler.LambdaLR(optimizer, factors)
