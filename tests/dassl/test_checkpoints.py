"""Resuming under every kind of kill, what a checkpoint may hold, and which ones are refused."""

import os
import signal

import torch
from pytest import approx, fixture, mark, raises
from safetensors.torch import load_file
from torch import nn

from cilmp.tests.dassl.upstream_plugin import PluginCoOp
from dassl.engine import TrainerX
from dassl.engine.interrupt import StopAfterStep
from dassl.utils import UserError, load_checkpoint, set_random_seed, torchtools
from dassl.utils.errors import Terminated
from dassl.utils.torchtools import save_checkpoint


def start(cfg, kind=PluginCoOp):
    set_random_seed(cfg.SEED)
    return kind(cfg)


def same_end(a, b):
    for key, value in a.model.state_dict().items():
        assert torch.equal(value, b.model.state_dict()[key]), key
    for one, two in zip(a.optim.state_dict()["state"].values(), b.optim.state_dict()["state"].values()):
        assert torch.equal(one["momentum_buffer"], two["momentum_buffer"])
    assert a.rates[-1] == (b.rates or a.rates)[-1]  # all steps may have been done


def image_order(cfg):
    trainer, epochs = start(cfg), []
    for epoch in range(3):
        trainer.train_loader_x.set_epoch(epoch)
        epochs.append([batch["index"].tolist() for batch in trainer.train_loader_x])
    return epochs


def test_image_order_does_not_depend_on_workers(make_cfg):
    """Persistent workers draw their seed once, a plain loader once an epoch: orders parted from epoch 2 on."""
    assert image_order(make_cfg(DATALOADER__NUM_WORKERS=0)) == image_order(make_cfg(DATALOADER__NUM_WORKERS=2))


@mark.parametrize("workers", [0, 1])
def test_killed_within_an_epoch(make_cfg, workers):
    settings = {"TRAIN__CHECKPOINT_FREQ": 1, "DATALOADER__NUM_WORKERS": workers, "OPTIM__MAX_EPOCH": 3}
    whole = start(make_cfg("whole", **settings))
    whole.train()
    first = start(make_cfg("killed", **settings))
    plain = first.forward_backward

    def die(batch):
        if (first.epoch, first.batch_idx) == (1, 1):
            raise KeyboardInterrupt
        return plain(batch)

    first.forward_backward = die
    with raises(KeyboardInterrupt):
        first.train()
    assert first._writer is None  # nothing is left open in a process of many runs
    again = start(make_cfg("killed", **settings))
    again.train()
    assert again.start_epoch == 1
    same_end(whole, again)


@mark.parametrize(
    "workers, epoch, batch, kept",
    [
        (0, 1, 0, "interrupted.pth.tar"),
        (1, 1, 1, "interrupted.pth.tar"),
        (0, 1, 2, "model.pth.tar-2"),
        (0, 2, 2, "model.pth.tar-3"),
    ],
)
@mark.parametrize("number, error", [(signal.SIGTERM, Terminated), (signal.SIGINT, KeyboardInterrupt)])
def test_a_signal_saves_within_the_step(make_cfg, tmp_path, workers, epoch, batch, kept, number, error):
    settings = {"DATALOADER__NUM_WORKERS": workers, "OPTIM__MAX_EPOCH": 3}
    whole = start(make_cfg("whole", **settings))
    whole.train()
    first = start(make_cfg("stopped", **settings))
    plain, steps = first.forward_backward, []

    def signalled(images):
        if (first.epoch, first.batch_idx) == (epoch, batch):
            os.kill(os.getpid(), number)
        steps.append(1)
        return plain(images)

    first.forward_backward = signalled
    with raises(error):
        first.train()
    assert len(steps) == 3 * epoch + batch + 1  # the step ended, none followed
    assert (tmp_path / "stopped" / "prompt_learner" / kept).is_file()
    again, rest = start(make_cfg("stopped", **settings)), []
    plain_again = again.forward_backward
    again.forward_backward = lambda images: rest.append(1) or plain_again(images)
    again.train()
    assert len(rest) == 9 - len(steps)
    same_end(whole, again)
    assert not (tmp_path / "stopped" / "prompt_learner" / "interrupted.pth.tar").exists()


@fixture
def handlers():
    """Signals go, after the test, where they went before."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@mark.parametrize("batch", [0, 2])  # within an epoch, and at its end
def test_schedulers_send_sigterm_more_than_once(make_cfg, tmp_path, monkeypatch, handlers, batch):
    """SLURM's requeue reaches the script and the process: before, the second one stopped it without a checkpoint."""
    first = start(make_cfg("stopped", OPTIM__MAX_EPOCH=3))
    plain, real = first.forward_backward, torchtools.torch.save

    def signalled(images):
        if (first.epoch, first.batch_idx) == (1, batch):
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)
        return plain(images)

    def again(state, path):
        os.kill(os.getpid(), signal.SIGTERM)
        real(state, path)

    first.forward_backward = signalled
    monkeypatch.setattr(torchtools.torch, "save", again)
    with raises(Terminated):
        first.train()
    kept = "interrupted.pth.tar" if batch == 0 else "model.pth.tar-2"
    assert (tmp_path / "stopped" / "prompt_learner" / kept).is_file()


def test_a_second_ctrl_c_stops_at_once(handlers):
    with raises(KeyboardInterrupt), StopAfterStep() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.asked == signal.SIGTERM
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("it went on")


def test_killed_while_writing_a_checkpoint(make_cfg, monkeypatch, tmp_path):
    whole = start(make_cfg("whole"))
    whole.train()
    cfg, real = make_cfg("killed", TRAIN__CHECKPOINT_FREQ=1), torch.save

    def half(state, path):
        real(state, path)
        if state["epoch"] == 3:
            path.write_bytes(path.read_bytes()[:700])
            raise KeyboardInterrupt

    monkeypatch.setattr(torchtools.torch, "save", half)
    with raises(KeyboardInterrupt):
        start(cfg).train()
    monkeypatch.undo()
    folder = tmp_path / "killed" / "prompt_learner"
    assert sorted(p.name for p in folder.iterdir()) == ["checkpoint", "model.pth.tar-1", "model.pth.tar-2"]
    again = start(cfg)
    again.train()
    assert again.start_epoch == 2
    same_end(whole, again)


class TwoModels(PluginCoOp):
    def build_model(self):
        super().build_model()
        self.register_model("second", nn.Linear(2, 2))


def test_two_models_resume_from_the_epoch_both_have(make_cfg, tmp_path):
    cfg = make_cfg(TRAIN__CHECKPOINT_FREQ=1)
    start(cfg, TwoModels).train()
    (tmp_path / "run" / "second" / "model.pth.tar-4").unlink()  # killed between the two files
    again = start(cfg, TwoModels)
    again.before_train()
    assert again.start_epoch == 3


class WholeModel(PluginCoOp):
    """Registers everything, the frozen part with a norm and a dropout included, as some plugins do."""

    def build_model(self):
        super().build_model()
        self.model.image_encoder = nn.Sequential(nn.Linear(768, 24), nn.BatchNorm1d(24), nn.Dropout(0.5))
        self.model.image_encoder.requires_grad_(False)
        self._models["prompt_learner"] = self.model.to(self.device)

    load_model = TrainerX.load_model


def test_frozen_parts_stay_as_they_are_and_out_of_the_checkpoint(make_cfg, tmp_path):
    trainer = start(make_cfg(), WholeModel)
    before = {k: v.clone() for k, v in trainer.model.image_encoder.state_dict().items()}
    trainer.set_model_mode("train")
    assert trainer.model.training and not trainer.model.image_encoder[1].training
    trainer.train()
    assert all(torch.equal(v, before[k]) for k, v in trainer.model.image_encoder.state_dict().items())
    saved = load_checkpoint(tmp_path / "run" / "prompt_learner" / "model.pth.tar-4")["state_dict"]
    assert "prompt_learner.ctx" in saved and "image_encoder.0.weight" not in saved
    exported = load_file(tmp_path / "run" / "prompt_learner" / "learner.safetensors")
    assert torch.equal(exported["prompt_learner.ctx"], trainer.model.prompt_learner.ctx.cpu())
    trainer.load_model(str(tmp_path / "run"), epoch=4)


class Plain(PluginCoOp):
    load_model = TrainerX.load_model


@mark.parametrize(
    "change, words",
    [
        ({"method": "Other"}, "is a checkpoint of Other, not of Plain"),
        ({"state_dict": {"ctx": torch.zeros(5, 24), "token_prefix": torch.zeros(3, 1)}}, r"ctx is \(5, 24\) there"),
        ({"state_dict": {"ctx": torch.zeros(3, 24)}}, "token_prefix on one side only"),
    ],
)
def test_checkpoints_that_do_not_fit_are_one_line(make_cfg, tmp_path, change, words):
    cfg = make_cfg()
    start(cfg, Plain).train()
    folder = tmp_path / "run" / "prompt_learner"
    save_checkpoint(load_checkpoint(folder / "model.pth.tar-4") | change, folder)
    with raises(UserError, match=words):
        start(cfg, Plain).load_model(str(tmp_path / "run"))
    with raises(UserError, match=words):
        start(cfg, Plain).train()


def test_other_classes_of_equal_number(make_cfg, tmp_path):
    """Equal shapes, other names: never resumed from; loaded only by methods that serve other classes."""
    cfg = make_cfg()
    start(cfg, Plain).train()
    folder = tmp_path / "run" / "prompt_learner"
    save_checkpoint(load_checkpoint(folder / "model.pth.tar-4") | {"classes": ["ant", "bee", "fly"]}, folder)
    with raises(UserError, match=r"other classes \(ant, bee, fly\) than these \(cat, dog, owl\)"):
        start(cfg, Plain).train()
    start(cfg, Plain).load_model(str(tmp_path / "run"))
    bound = start(cfg, Plain)
    bound.bound_to_classes = lambda cfg: "a row belongs to a class"
    with raises(UserError, match="other classes"):
        bound.load_model(str(tmp_path / "run"))


def test_resume_from_a_folder_without_checkpoints(make_cfg, tmp_path):
    with raises(UserError, match="holds no checkpoint of prompt_learner"):
        start(make_cfg(RESUME=str(tmp_path / "nothing"))).train()


def test_the_best_model_is_deployed_and_exported_and_the_pointer_stays(make_cfg, tmp_path):
    trainer = start(make_cfg(TEST__FINAL_MODEL="best_val", TRAIN__CHECKPOINT_FREQ=1), Plain)
    values, plain = iter([50.0, 90.0, 90.0, 10.0]), trainer.test
    trainer.test = lambda split=None: next(values) if split == "val" else plain()
    trainer.train()
    folder = tmp_path / "run" / "prompt_learner"
    best, second = (load_checkpoint(folder / n) for n in ("model-best.pth.tar", "model.pth.tar-2"))
    assert best["val_result"] == 90 and best["epoch"] == 2  # strictly better only
    assert torch.equal(load_file(folder / "learner.safetensors")["ctx"], second["state_dict"]["ctx"])
    trainer.save_model(3, str(tmp_path / "run"), model_name="model-best.pth.tar")
    assert (folder / "checkpoint").read_text().strip() == "model.pth.tar-4"  # where to resume, not what is best


class Averaged(PluginCoOp):
    """Keeps a sum over epochs and loads the mean at the end."""

    calls = 0

    def before_train(self):
        self.sum = torch.zeros(3, 24, device=self.device)
        super().before_train()

    def after_update_epoch(self):
        self.sum = self.sum + self.model.prompt_learner.ctx.detach()

    def after_last_epoch(self):
        self.calls += 1
        with torch.no_grad():
            self.model.prompt_learner.ctx.copy_(self.sum / self.max_epoch)

    def extra_state(self):
        return {"sum": self.sum}

    def load_extra_state(self, state):
        self.sum = state["sum"].to(self.device)


def test_averaging_is_resumed_and_loaded_once_before_the_last_checkpoint(make_cfg, tmp_path):
    whole = start(make_cfg("whole"), Averaged)
    whole.train()
    assert whole.calls == 1
    cfg = make_cfg(TRAIN__CHECKPOINT_FREQ=1)
    start(cfg, Averaged).train()
    folder = tmp_path / "run" / "prompt_learner"
    for epoch in (3, 4):
        (folder / f"model.pth.tar-{epoch}").unlink()
    again = start(cfg, Averaged)
    again.train()
    assert again.start_epoch == 2
    last = load_checkpoint(folder / "model.pth.tar-4")["state_dict"]["ctx"]
    assert torch.equal(last, whole.model.prompt_learner.ctx.cpu()) and torch.equal(last, again.sum.cpu() / 4)


def test_a_warm_up_checkpoint_of_upstream_is_read_without_running_its_code(make_cfg, tmp_path):
    """Upstream's scheduler entry holds the inner schedule as an object, bound to the optimiser."""
    trainer = start(make_cfg(), Plain)
    trainer.train()
    path = tmp_path / "run" / "prompt_learner" / "model.pth.tar-4"
    plain = load_checkpoint(path)
    old = {k: v for k, v in vars(trainer.sched).items() if k != "optimizer"}
    names = ("state_dict", "epoch", "optimizer", "val_result")
    torch.save({k: plain[k] for k in names} | {"scheduler": old}, path)
    with raises(Exception, match=r"(?i)weights.only|unsupported|unpickl"):
        torch.load(path, weights_only=True)
    again = start(make_cfg(OPTIM__MAX_EPOCH=5), Plain)
    again.before_train()
    assert again.start_epoch == 4 and again.get_current_lr() == approx(trainer.get_current_lr())
    before = again.get_current_lr()
    again.optim.step()
    again.update_lr()
    assert again.get_current_lr() != before  # the schedule is alive after resuming


class Evil:
    def __reduce__(self):
        return (print, ("this must not run",))


def test_a_checkpoint_with_code_in_it_is_refused(tmp_path, capsys):
    torch.save({"state_dict": {}, "scheduler": Evil()}, tmp_path / "model.pth.tar-1")
    with raises(UserError, match="more than tensors and numbers"):
        load_checkpoint(tmp_path / "model.pth.tar-1")
    assert "must not run" not in capsys.readouterr().out


def epochs_kept(folder):
    return sorted(int(p.name.rsplit("-", 1)[1]) for p in (folder / "prompt_learner").glob("model.pth.tar-*"))


def test_going_on_for_more_epochs_keeps_what_was_finished(make_cfg, tmp_path):
    """Before: the last checkpoint of the finished run was taken for one that only served a restart, and removed."""
    start(make_cfg(OPTIM__MAX_EPOCH=2)).train()
    start(make_cfg(OPTIM__MAX_EPOCH=4)).train()
    assert epochs_kept(tmp_path / "run") == [2, 4]


@mark.parametrize("batch", [2, 1])
def test_a_checkpoint_that_only_served_a_restart_goes_after_the_restart(make_cfg, monkeypatch, tmp_path, batch):
    """Batch 2 is an epoch's last; stopped within an epoch, the checkpoint before it goes as well."""
    from dassl.engine import trainer as module

    monkeypatch.setattr(module, "ROLLING_SECONDS", 0)
    first = start(make_cfg())
    plain = first.forward_backward

    def stop(images):
        if (first.epoch, first.batch_idx) == (1, batch):
            os.kill(os.getpid(), signal.SIGINT)
        return plain(images)

    first.forward_backward = stop
    with raises(KeyboardInterrupt):
        first.train()
    assert epochs_kept(tmp_path / "run") == [2 if batch == 2 else 1]
    monkeypatch.setattr(module, "ROLLING_SECONDS", 60)
    start(make_cfg()).train()
    assert epochs_kept(tmp_path / "run") == [4]
