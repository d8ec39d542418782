"""TRAIN.WANDB: the scalars of TensorBoard go to Weights & Biases, too; a stand-in takes them here."""

import sys
from types import SimpleNamespace

import pytest

from cilmp.tests.dassl.test_engine import start
from dassl.engine import config_hash
from dassl.utils.errors import UserError


class StandIn:
    """A wandb that keeps what it is told."""

    def __init__(self):
        self.begun, self.logged, self.metrics, self.finished = [], [], set(), 0

    def init(self, **how):
        self.begun.append(how)
        return SimpleNamespace(
            log=self.logged.append, finish=self.finish,
            define_metric=lambda name, step_metric: self.metrics.add((name, step_metric)),
        )  # fmt: skip

    def finish(self):
        self.finished += 1


@pytest.fixture
def wandb(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", found := StandIn())
    return found


def test_curves_and_results_are_sent_and_the_run_is_ended(make_cfg, wandb, tmp_path):
    start(make_cfg(TRAIN__WANDB="pets", OPTIM__MAX_EPOCH=2)).train()
    (how,) = wandb.begun
    assert how["project"] == "pets" and how["dir"] == str(tmp_path / "run") and how["resume"] == "allow"
    assert how["config"]["OPTIM.MAX_EPOCH"] == 2 and not {"DATASET.ROOT", "OUTPUT_DIR"} & set(how["config"])
    train = [row for row in wandb.logged if "train/loss" in row]
    assert [row["train/step"] for row in train] == list(range(len(train))) and len(train) == 6
    assert any("test/accuracy" in row for row in wandb.logged) and wandb.finished == 1
    assert ("train/*", "train/step") in wandb.metrics
    assert list((tmp_path / "run" / "tensorboard").glob("events*"))


def test_a_resumed_run_goes_on_in_its_own_curve(make_cfg, wandb):
    start(make_cfg(TRAIN__WANDB="pets", OPTIM__MAX_EPOCH=1)).train()
    start(make_cfg(TRAIN__WANDB="pets", OPTIM__MAX_EPOCH=1)).train()
    start(make_cfg("other", TRAIN__WANDB="pets", OPTIM__MAX_EPOCH=1)).train()
    first, second, other = (how["id"] for how in wandb.begun)
    assert first == second != other


def test_it_is_ended_when_training_fails(make_cfg, wandb, monkeypatch):
    trainer = start(make_cfg(TRAIN__WANDB="pets"))
    monkeypatch.setattr(trainer, "forward_backward", lambda batch: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        trainer.train()
    assert wandb.finished == 1


def test_it_is_off_and_no_part_of_what_a_run_is(make_cfg, wandb):
    start(make_cfg(OPTIM__MAX_EPOCH=1)).train()
    assert not wandb.begun and config_hash(make_cfg()) == config_hash(make_cfg(TRAIN__WANDB="pets"))


def test_what_is_missing_is_one_line(make_cfg, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match=r"TRAIN.WANDB pets: wandb is not installed; pip install 'cilmp\[wandb\]'"):
        start(make_cfg(TRAIN__WANDB="pets")).train()
    refusing = SimpleNamespace(init=lambda **_: (_ for _ in ()).throw(RuntimeError("api_key not\nconfigured")))
    monkeypatch.setitem(sys.modules, "wandb", refusing)
    with pytest.raises(UserError, match="wandb says: api_key not configured; WANDB_MODE=offline"):
        start(make_cfg(TRAIN__WANDB="pets")).train()
