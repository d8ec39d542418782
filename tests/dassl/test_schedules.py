"""Learning rates worked by hand, optimisers by name, and who steps the rate."""

import math

import pytest
import torch
from torch import nn

from cilmp.tests.dassl.upstream_plugin import PluginCoOp
from dassl.config import get_cfg_default
from dassl.optim import build_lr_scheduler, build_optimizer
from dassl.utils import UserError, set_random_seed


def rates(epochs, **settings):
    cfg = get_cfg_default().OPTIM
    cfg.NAME, cfg.LR, cfg.MAX_EPOCH = "sgd", 1.0, epochs
    for key, value in settings.items():
        cfg[key] = value
    optim = build_optimizer(nn.Linear(1, 1), cfg)
    sched = build_lr_scheduler(optim, cfg)
    found = []
    for _ in range(epochs):
        found.append(optim.param_groups[0]["lr"])
        optim.step()
        sched.step()
    return found


def test_cosine_after_constant_warm_up():
    wanted = [1e-5] + [0.5 * (1 + math.cos(math.pi * (e - 1) / 50)) for e in range(1, 50)]
    found = rates(50, LR_SCHEDULER="cosine", WARMUP_EPOCH=1, WARMUP_TYPE="constant", WARMUP_CONS_LR=1e-5)
    assert found == pytest.approx(wanted)


def test_linear_warm_up():
    found = rates(6, LR_SCHEDULER="single_step", STEPSIZE=(2,), GAMMA=0.5, WARMUP_EPOCH=4, WARMUP_MIN_LR=0.01)
    assert found == pytest.approx([0.01, 0.25, 0.5, 0.75, 1, 1])


def test_steps():
    assert rates(4, LR_SCHEDULER="single_step", STEPSIZE=(-1,)) == pytest.approx([1, 1, 1, 1])
    assert rates(4, LR_SCHEDULER="single_step", STEPSIZE=(7, 2), GAMMA=0.1) == pytest.approx([1, 1, 0.1, 0.1])
    assert rates(4, LR_SCHEDULER="multi_step", STEPSIZE=(1, 3), GAMMA=0.1) == pytest.approx([1, 0.1, 0.1, 0.01])


@pytest.mark.parametrize("key", ["NAME", "LR_SCHEDULER", "WARMUP_TYPE"])
def test_unknown_names(key):
    with pytest.raises(UserError, match=f"OPTIM.{key} 'cosin'.*Known:"):
        rates(1, WARMUP_EPOCH=1, **{key: "cosin"})


@pytest.mark.parametrize("name", ["adam", "amsgrad", "sgd", "rmsprop", "radam", "adamw"])
def test_optimisers_move_only_what_is_trained(name):
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[0].requires_grad_(False)
    cfg = get_cfg_default().OPTIM
    cfg.NAME = name
    optim = build_optimizer(model, cfg)
    assert len(optim.param_groups[0]["params"]) == 2
    before = model[1].weight.clone()
    model(torch.ones(1, 2)).sum().backward()
    optim.step()
    assert not torch.equal(before, model[1].weight)


def test_staged_rates():
    model = nn.ModuleDict({"body": nn.Linear(2, 2), "head": nn.Linear(2, 1)})
    cfg = get_cfg_default().OPTIM
    cfg.LR, cfg.STAGED_LR, cfg.NEW_LAYERS, cfg.BASE_LR_MULT = 1.0, True, ("head",), 0.1
    low, high = build_optimizer(model, cfg).param_groups
    assert (low["lr"], high["lr"]) == (0.1, 1.0) and high["params"][0].shape == (1, 2)


class Silent(PluginCoOp):
    """Leaves the rate to TrainerX."""

    lr_per = "epoch"

    def update_lr(self, names=None):
        self.calls = getattr(self, "calls", 0) + 1
        super().update_lr(names)

    def forward_backward(self, batch):
        image, label = self.parse_batch_train(batch)
        loss = nn.functional.cross_entropy(self.model(image), label)
        self.model_backward_and_update(loss)
        return {"loss": loss.detach()}


class Both(Silent):
    """Leaves it to TrainerX and steps it all the same."""

    def forward_backward(self, batch):
        summary = super().forward_backward(batch)
        if self.batch_idx + 1 == self.num_batches:
            self.update_lr()
        return summary


@pytest.mark.parametrize("kind", [Silent, Both])
def test_the_rate_is_stepped_once_an_epoch(make_cfg, kind):
    set_random_seed(1)
    trainer = kind(make_cfg(TEST__NO_TEST=True))
    trainer.train()
    assert trainer.calls == 4
    assert trainer.get_current_lr() == pytest.approx(0.25 * (1 + math.cos(math.pi * 3 / 4)))


@pytest.mark.parametrize("kind", [Silent, Both])
def test_or_once_a_step(make_cfg, kind, monkeypatch):
    monkeypatch.setattr(kind, "lr_per", "step", raising=False)
    trainer = kind(make_cfg(TEST__NO_TEST=True))
    trainer.train()
    assert trainer.num_batches > 1 and trainer.calls == 4 * trainer.num_batches


def test_or_by_the_plugin_alone(make_cfg, monkeypatch):
    """Upstream's trainers that never call update_lr() have a constant rate."""
    monkeypatch.setattr(Silent, "lr_per", "")
    trainer = Silent(make_cfg(TEST__NO_TEST=True))
    trainer.train()
    assert not hasattr(trainer, "calls")
