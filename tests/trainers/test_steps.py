"""Steps are counted by the optimiser; a budget gives every method as many, its schedule laid over them."""

import pytest
import torch

from cilmp.tests.trainers.test_features import config, own_cache, run  # noqa: F401 - a fixture
from cilmp.trainers.averaging import GaussianAverage
from cilmp.trainers.schedules import laid_over
from dassl.config import get_cfg_default
from dassl.engine import build_trainer
from dassl.optim import build_lr_scheduler
from dassl.utils.errors import ConfigError


def rates(steps, epochs, **optim):
    """The rates of all steps of two parameter groups, 1 and 0.1 at most."""
    cfg = get_cfg_default().OPTIM
    for key, value in ({"LR_SCHEDULER": "cosine", "MAX_EPOCH": epochs} | optim).items():
        cfg[key] = value
    groups = [{"params": [torch.zeros(1)], "lr": lr} for lr in (1.0, 0.1)]
    optimizer, found = torch.optim.AdamW(groups), []
    schedule = laid_over(optimizer, lambda o: build_lr_scheduler(o, cfg), epochs, steps)
    for _ in range(steps):
        found.append(tuple(g["lr"] for g in optimizer.param_groups))
        optimizer.step()
        schedule.step()
    return found


def test_a_schedule_keeps_its_shares():
    """Warm-up of 1 of 4 epochs and milestones at half, over twice and half the steps; by hand."""
    warm = {"LR_SCHEDULER": "multi_step", "STEPSIZE": (2,), "WARMUP_EPOCH": 1, "WARMUP_TYPE": "constant",
            "WARMUP_CONS_LR": 1e-3, "WARMUP_RECOUNT": False}  # fmt: skip
    own = [1e-3, 1.0, 0.1, 0.1]
    assert [r for r, _ in rates(4, 4, **warm)] == pytest.approx(own)
    assert [r for r, _ in rates(8, 4, **warm)] == pytest.approx([r for r in own for _ in range(2)])
    assert [r for r, _ in rates(2, 4, **warm)] == pytest.approx(own[::2])
    assert [r for _, r in rates(8, 4)] == pytest.approx([0.1 * r for r, _ in rates(8, 4)])
    assert rates(40, 4)[-1] == pytest.approx(rates(4, 4)[-1])


@pytest.mark.parametrize("method, steps", [("ProGrad", 9), ("TipAdapterF", 9), ("TipAdapter", "fitted")])
def test_steps_are_counted(tmp_path, method, steps):
    trainer, _ = run(config(tmp_path, method))  # 24 images, batches of 8, 3 epochs
    assert trainer.steps == steps


def test_resuming_goes_on_counting(tmp_path):
    run(config(tmp_path))
    again = build_trainer(config(tmp_path))
    again.before_train()
    assert again.steps == 9


@pytest.mark.parametrize("method, size", [("CoOp", 5), ("CoCoOp", 1), ("CLIPSVD", 7), ("FineTune", 4), ("CILMP", 24)])
def test_a_budget_is_met_to_the_step_whatever_the_batch(tmp_path, method, size):
    """7 epochs of 24 // 20 = 1 batch: 7 steps, also where that is not a whole number of epochs, and where the
    method has steps a shot or at least so many of its own."""
    more = {"CLIPSVD": {"TRAINER.CLIPSVD.ITERATIONS_PER_SHOT": 50}, "FineTune": {"TRAINER.FINETUNE.MIN_STEPS": 50}}
    options = {"OPTIM.BUDGET": (7, 20), "DATALOADER.TRAIN_X.BATCH_SIZE": size} | more.get(method, {})
    trainer, _ = run(config(tmp_path, method, **options))
    assert trainer.steps == 7
    assert trainer.sched.last_epoch == 7


def test_the_budget_of_ones_own_length_changes_nothing(tmp_path):
    _, own = run(config(tmp_path / "a", **{"INPUT.TRANSFORMS": ["random_flip", "normalize"]}))
    budget = {"OPTIM.BUDGET": (3, 8), "INPUT.TRANSFORMS": ["random_flip", "normalize"]}
    _, same = run(config(tmp_path / "b", **budget))
    assert torch.equal(own["ctx"], same["ctx"])


def test_what_is_counted_in_epochs_is_stretched(tmp_path):
    """Averaging around epoch 2 of 3 is around epoch 4 of 6."""
    options = {"TRAINER.PROMPTSRC.GPA_MEAN": 2.0, "TRAINER.PROMPTSRC.GPA_STD": 0.5}
    trainer = build_trainer(config(tmp_path, "PromptSRC", **options, **{"OPTIM.BUDGET": (6, 8)}))
    assert trainer.averaging().weights == GaussianAverage(4.0, 1.0, 6).weights
    trainer = build_trainer(config(tmp_path, "PromptSRC", **options))
    assert trainer.averaging().weights == GaussianAverage(2.0, 0.5, 3).weights


@pytest.mark.parametrize("method, budget, words", [
    ("TipAdapter", (3, 8), "not for TipAdapter - it is fitted, without optimiser steps; leave it out"),
    ("ZeroshotCLIP", (3, 8), "not for ZeroshotCLIP - it trains nothing"),
    ("CoOp", (3,), r"give \(epochs, batch size\)"), ("CoOp", (0, 8), r"give \(epochs, batch size\)"),
])  # fmt: skip
def test_a_budget_that_cannot_be_is_one_line(tmp_path, method, budget, words):
    with pytest.raises(ConfigError, match=words):
        build_trainer(config(tmp_path, method, **{"OPTIM.BUDGET": budget}))
