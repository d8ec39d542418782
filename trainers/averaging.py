"""Gaussian prompt aggregation: a weighted mean of the learned tensors over epochs (PromptSRC, eq. 7).

    theta = sum_e g_e theta_e,   g_e = N(e; mean, std) / sum_e' N(e'; mean, std),   e = 1..E

Only learned tensors are averaged, in fp32, and the running sum is part of the checkpoint. (The official code
sums the frozen weights too, in fp16, and loses the sum when a run is resumed.)
"""

import math

import torch


class GaussianAverage:
    """Running sum over epochs of the tensors that `keep(name)` accepts.

    Args:
        mean, std: of the Gaussian, in epochs.
        epochs: E.
        keep: name -> bool; the others end with the last epoch's value.
    """

    def __init__(self, mean, std, epochs, keep=lambda name: True):
        density = [math.exp(-((e - mean) ** 2) / (2 * std**2)) for e in range(1, epochs + 1)]
        total = sum(density)
        # far outside the support every density underflows to 0: the last epoch is then the nearest
        self.weights = [d / total for d in density] if total else [0.0] * (epochs - 1) + [1.0]
        self.keep = keep
        self.sum, self.epochs_seen = {}, 0

    def update(self, epoch, named):
        """Add the tensors as they are after 0-based `epoch`."""
        weight = self.weights[epoch]
        for name, value in named:
            if self.keep(name):
                term = value.detach().float() * weight
                self.sum[name] = self.sum[name] + term if name in self.sum else term
        self.epochs_seen = epoch + 1

    def load_into(self, named):
        """Write the averages into the tensors; only after all epochs were added."""
        if self.epochs_seen != len(self.weights):
            raise ValueError(f"averaging saw {self.epochs_seen} of {len(self.weights)} epochs")
        with torch.no_grad():
            for name, value in named:
                if self.keep(name):
                    value.copy_(self.sum[name])

    def state(self):
        return {"epochs_seen": self.epochs_seen, **{f"sum/{k}": v for k, v in self.sum.items()}}

    def load_state(self, state):
        self.epochs_seen = int(state["epochs_seen"])
        self.sum = {k[4:]: v for k, v in state.items() if k.startswith("sum/")}


class AveragingMixin:
    """For a PromptTrainer: averages the learner over epochs; `averaging()` names mean, std and what to average."""

    def averaging(self):
        """GaussianAverage of this run."""
        raise NotImplementedError

    def before_train(self):
        self.average = self.averaging()  # before the resume that super() does: it fills this
        super().before_train()

    def after_update_epoch(self):
        self.average.update(self.epoch, self.model.named_trainables())

    def after_last_epoch(self):
        self.average.load_into(self.model.named_trainables())

    def extra_state(self):
        return self.average.state()

    def load_extra_state(self, state):
        device = {n: p.device for n, p in self.model.named_trainables()}
        self.average.load_state({k: v.to(device[k[4:]]) if k[:4] == "sum/" else v for k, v in state.items()})
