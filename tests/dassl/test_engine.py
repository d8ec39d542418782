"""Hooks, facts from the backbone, finiteness, meters, results, and what a run leaves in the process."""

import json
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from cilmp.tests.dassl.upstream_plugin import PluginCoOp
from dassl.config import get_cfg_default, merge_from_file
from dassl.engine import NonFiniteLoss, TrainerBase, claim_run_folder, config_hash
from dassl.utils import MetricMeter, UserError, set_random_seed, setup_logger

REPO = Path(__file__).resolve().parents[2]


def start(cfg, kind=PluginCoOp):
    set_random_seed(cfg.SEED)
    return kind(cfg)


class Recorder(PluginCoOp):
    """Writes down which hook is called when."""

    def __init__(self, cfg):
        self.order = []
        super().__init__(cfg)


def recording(name):
    def hook(self, *args, **kwargs):
        self.order.append(name)
        return getattr(super(Recorder, self), name)(*args, **kwargs)

    return hook


for _name in ("check_cfg", "input_facts", "build_data_loader", "build_model", "before_train", "before_epoch",
              "run_epoch", "after_update_epoch", "after_last_epoch", "after_epoch", "save_model", "after_train",
              "export_learner", "test"):  # fmt: skip
    setattr(Recorder, _name, recording(_name))


def test_hooks_come_in_upstreams_order(make_cfg):
    trainer = start(make_cfg(OPTIM__MAX_EPOCH=2), Recorder)
    trainer.train()
    epoch = ["before_epoch", "run_epoch", "after_epoch", "after_update_epoch"]
    assert trainer.order == [
        "check_cfg", "input_facts", "build_data_loader", "build_model", "before_train",
        *epoch, *epoch, "after_last_epoch", "save_model", "after_train", "export_learner", "test",
    ]  # fmt: skip


class WithFacts(PluginCoOp):
    def input_facts(self):
        return {"size": 16, "mean": (0.1, 0.2, 0.3), "std": (1.0, 1.0, 1.0), "interpolation": "bicubic"}


def test_input_comes_from_the_backbone_unless_set(make_cfg, tmp_path, capsys):
    trainer = start(make_cfg(INPUT__PIXEL_STD=[0.5, 0.5, 0.5], OPTIM__MAX_EPOCH=1), WithFacts)
    assert trainer.cfg.INPUT.SIZE == (16, 16) and trainer.cfg.INPUT.PIXEL_MEAN == [0.1, 0.2, 0.3]
    assert trainer.cfg.INPUT.PIXEL_STD == [0.5, 0.5, 0.5] and trainer.cfg.INPUT.INTERPOLATION == "bicubic"
    assert "warning: INPUT.PIXEL_STD [0.5, 0.5, 0.5] is set, the backbone was trained with" in capsys.readouterr().out
    trainer.train()
    results, data = json.loads((tmp_path / "run" / "results.json").read_text()), trainer.dm.dataset
    assert results["input_set_by_user"] == ["INPUT.PIXEL_STD"]
    assert results["parts"] == {"train": len(data.train_x), "val": len(data.val), "test": len(data.test)}
    assert results["device_name"] and results["platform"].startswith(platform.system())


def test_a_value_that_equals_upstreams_default_is_set_all_the_same(make_cfg, capsys):
    """Before: INPUT.SIZE (224, 224), asked for, was overwritten by the backbone's."""
    cfg = make_cfg(INPUT__SIZE=(224, 224))
    assert cfg.INPUT.SET == ("SIZE",)
    assert start(cfg, WithFacts).cfg.INPUT.SIZE == (224, 224)
    assert "warning: INPUT.SIZE (224, 224) is set, the backbone was trained with (16, 16)" in capsys.readouterr().out


def test_a_runs_own_configuration_sets_nothing_more(make_cfg, tmp_path):
    """Every key stands in config.yaml; read again, only those count as set that were."""
    from dassl.config import get_cfg_default, merge_from_file

    cfg = get_cfg_default()
    (tmp_path / "config.yaml").write_text(cfg.dump())
    again = get_cfg_default()
    merge_from_file(again, tmp_path / "config.yaml")
    assert again.INPUT.SET == () and again == cfg


class Diverging(PluginCoOp):
    def forward_backward(self, batch):
        image, label = self.parse_batch_train(batch)
        loss = torch.nn.functional.cross_entropy(self.model(image), label)
        self.model_backward_and_update(loss * float("nan" if self.epoch == 2 else 1))
        return {"loss": loss.detach()}


def test_a_loss_that_is_not_finite_stops_before_it_is_saved(make_cfg, tmp_path):
    trainer = start(make_cfg(TRAIN__CHECKPOINT_FREQ=1), Diverging)
    with pytest.raises(NonFiniteLoss, match=r"infinite or NaN! \(epoch 3, batch 1\); lower OPTIM.LR") as error:
        trainer.train()
    assert isinstance(error.value, FloatingPointError)
    assert not (tmp_path / "run" / "prompt_learner" / "model.pth.tar-3").exists()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_the_flag_kept_on_a_device_is_not_lost(bad):
    """On CUDA losses are added up unread: a bad one stays bad under later good ones."""
    trainer = TrainerBase()
    trainer._worst_loss = torch.tensor(bad).abs() + torch.tensor(1.0)
    with pytest.raises(FloatingPointError):
        trainer.read_anomaly()
    trainer.read_anomaly()  # read once


def test_outputs_that_are_not_finite_are_no_result(make_cfg):
    trainer = start(make_cfg())
    trainer.model_inference = lambda image: torch.full((len(image), 3), float("nan"))
    with pytest.raises(UserError, match="outputs are infinite or NaN"):
        trainer.test()


class Counting(torch.Tensor):
    reads = 0

    def __float__(self):
        Counting.reads += 1
        return 1.0


def test_meters_read_tensors_only_when_printed():
    meter, value = MetricMeter(), torch.tensor(2.0).as_subclass(Counting)
    for _ in range(10):
        meter.update({"loss": value})
    assert Counting.reads == 0
    str(meter)
    assert Counting.reads == 2
    plain = MetricMeter()
    for v in (1.0, 3.0):
        plain.update({"loss": torch.tensor(v), "acc": 50.0})
    assert str(plain) == "loss 3.0000 (2.0000) acc 50.0000 (50.0000)"
    with pytest.raises(TypeError):
        plain.update([1])


def test_lines_come_every_print_freq(make_cfg, capsys):
    start(make_cfg(TRAIN__PRINT_FREQ=2, OPTIM__MAX_EPOCH=1, TEST__NO_TEST=True)).train()
    lines = [x for x in capsys.readouterr().out.splitlines() if x.startswith("epoch [")]
    assert len(lines) == 1 and lines[0].startswith("epoch [1/1] batch [2/3] time ")
    assert " data " in lines[0] and " loss " in lines[0] and " lr 1.0000e-05 eta 0:00:00" in lines[0]


def test_results_have_the_schema(make_cfg, tmp_path):
    start(make_cfg(THREADS=1, DATASET__NUM_SHOTS=4)).train()
    r = json.loads((tmp_path / "run" / "results.json").read_text())
    assert {"schema", "method", "dataset", "protocol", "subset", "split", "shots", "seed", "backbone", "llm", "hparams",
            "n", "classes", "metrics", "ci95", "ci_unit", "per_class", "cost", "split_sha256", "train_sha256",
            "test_sha256", "config_sha256", "versions", "git"} <= set(r)  # fmt: skip
    assert set(r["metrics"]) == {"accuracy", "macro_f1", "balanced_accuracy", "auroc", "ece", "kappa",
                                 "kappa_quadratic"}  # fmt: skip
    assert set(r["cost"]) == {"steps", "train_seconds", "seconds_per_step", "peak_memory_mib", "trainable_parameters",
                              "test_images_per_second", "waiting_share"}  # fmt: skip
    assert 0 < r["cost"]["waiting_share"] < 1
    assert r["cost"]["steps"] == 4  # epochs of one batch
    assert (r["shots"], r["subset"], r["split"], r["threads"]) == (4, "all", "test", 1)
    assert r["cost"]["trainable_parameters"] == 72 and all(v > 0 for v in r["cost"].values())
    assert np.sum(r["confusion"]) == 12 and np.trace(r["confusion"]) / 12 * 100 == pytest.approx(
        r["metrics"]["accuracy"]
    )


def test_a_run_can_be_repeated_from_its_config(make_cfg, tmp_path):
    from yacs.config import CfgNode

    cfg = make_cfg(OPTIM__LR=0.25, INPUT__PIXEL_MEAN=[0.5, 0.5, 0.5])
    claim_run_folder(cfg)
    again = get_cfg_default()
    again.TRAINER.PLUGINCOOP = CfgNode({"PREC": "fp32"})
    merge_from_file(again, tmp_path / "run" / "config.yaml")
    assert config_hash(again, leave_out=()) == config_hash(cfg, leave_out=()) and again == cfg


def test_two_runs_in_one_process_leave_nothing(make_cfg, tmp_path):
    console = sys.stdout
    for name in ("a", "b"):
        cfg = make_cfg(name, OPTIM__MAX_EPOCH=1)
        with setup_logger(cfg.OUTPUT_DIR):
            start(cfg).train()
        assert sys.stdout is console
    a, b = ((tmp_path / n / "log.txt").read_text() for n in "ab")
    assert a.count("Finish training") == b.count("Finish training") == 1
    one, two = (np.load(tmp_path / n / "predictions.npz")["probabilities"] for n in "ab")
    assert np.array_equal(one, two)  # seeded per run, not per process


def test_the_log_is_on_disk_before_the_run_ends(tmp_path):
    with setup_logger(str(tmp_path)):
        print("a line")
        assert (tmp_path / "log.txt").read_text() == "a line\n"
    with setup_logger(str(tmp_path)):
        print("another run")
    assert (tmp_path / "log.txt").read_text() == "a line\n" and len(list(tmp_path.glob("log.txt-*"))) == 1


def test_evaluation_of_a_finished_run_by_its_folder(make_cfg, tmp_path):
    cfg = make_cfg()
    trained = start(cfg)
    trained.train()
    fresh = start(make_cfg("elsewhere"))
    fresh.load_model(cfg.OUTPUT_DIR, epoch=4)
    assert torch.equal(fresh.model.prompt_learner.ctx, trained.model.prompt_learner.ctx)
    fresh.test()
    assert (tmp_path / "elsewhere" / "results.json").is_file()


def test_threads_of_one_run_are_not_the_next_ones(make_cfg):
    before = torch.get_num_threads()
    start(make_cfg(THREADS=before + 1))
    assert torch.get_num_threads() == before + 1
    start(make_cfg(THREADS=0))
    assert torch.get_num_threads() == before


def test_unknown_final_model(make_cfg):
    with pytest.raises(UserError, match=r"TEST.FINAL_MODEL 'best' - did you mean 'best_val'"):
        start(make_cfg(TEST__FINAL_MODEL="best"))


def test_importing_the_core_stays_light():
    """No TensorBoard, matplotlib, scikit-learn, torchmetrics or transformers until somebody needs them."""
    heavy = "'tensorboard', 'matplotlib', 'sklearn', 'torchmetrics', 'transformers', 'open_clip'"
    code = f"import sys, dassl.engine, dassl.evaluation; print([m for m in ({heavy}) if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
