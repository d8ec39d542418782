"""An upstream-style plugin trains, evaluates, resumes; what a run leaves behind."""

import json
import math

import numpy as np
import pytest
import torch

from cilmp.tests.dassl.upstream_plugin import PluginCoOp
from dassl.engine import build_trainer, claim_run_folder
from dassl.utils import UserError, load_checkpoint, set_random_seed, setup_logger


def start(cfg):
    set_random_seed(cfg.SEED)
    return build_trainer(cfg)


def test_plugin_trains_and_leaves_a_whole_run_folder(make_cfg, tmp_path, capsys):
    cfg = make_cfg()
    claim_run_folder(cfg)
    logger = setup_logger(cfg.OUTPUT_DIR)
    trainer = start(cfg)
    trainer.train()
    logger.close()
    folder = tmp_path / "run"
    log = (folder / "log.txt").read_text()
    for line in ("Finish training", "=> result", "* total: 12", "* accuracy: ", "* macro_f1: "):
        assert any(x.startswith(line) for x in log.splitlines()), line
    results = json.loads((folder / "results.json").read_text())
    assert results["schema"] == 2 and results["n"] == 12 and results["classes"] == ["cat", "dog", "owl"]
    assert results["metrics"]["accuracy"] > 60  # three colours
    assert set(results["per_class"]) == {"cat", "dog", "owl"} and results["cost"]["train_seconds"] > 0
    saved = np.load(folder / "predictions.npz", allow_pickle=False)
    assert (saved["predictions"] == saved["labels"]).mean() * 100 == pytest.approx(results["metrics"]["accuracy"])
    assert saved["paths"][0].endswith(".png") and saved["probabilities"].shape == (12, 3)
    assert list((folder / "tensorboard").iterdir()) and (folder / "config.yaml").is_file()
    checkpoint = load_checkpoint(folder / "prompt_learner" / "model.pth.tar-4")
    assert {"state_dict", "epoch", "optimizer", "scheduler", "val_result"} <= set(checkpoint)
    assert (folder / "prompt_learner" / "checkpoint").read_text().strip() == "model.pth.tar-4"


def test_patients_are_kept_beside_predictions_as_hashes(make_cfg, tmp_path):
    """An image without a patient is one of its own; without any known, none are kept."""
    trainer = start(make_cfg())
    trainer.test()
    path = tmp_path / "run" / "predictions.npz"
    assert len(np.load(path)["groups"]) == 0
    paths = [item.impath for item in trainer.dm.dataset.test]
    trainer.dm.dataset.groups = dict.fromkeys(paths[:5], "Jane Doe")
    trainer.test()
    saved = np.load(path)
    groups = dict(zip(saved["paths"].tolist(), saved["groups"].tolist()))
    assert len({groups[p] for p in paths[:5]}) == 1 and len(set(groups.values())) == 12 - 4
    assert not any("Jane" in g or "png" in g for g in groups.values())


def test_plugins_step_the_rate_once_an_epoch(make_cfg):
    """Warm-up of one epoch at 1e-5, then 0.5 lr (1 + cos(pi (e - 1) / E)): upstream's schedule by hand."""
    trainer = start(make_cfg())
    trainer.train()
    by_epoch = trainer.rates[:: trainer.num_batches]
    wanted = [1e-5] + [0.25 * (1 + math.cos(math.pi * (e - 1) / 4)) for e in (1, 2, 3)]
    assert by_epoch == pytest.approx(wanted)


class Killed(Exception):
    pass


@pytest.mark.parametrize("after", [1, 2, 3])
def test_a_killed_run_resumes_bit_equal(make_cfg, after):
    whole = start(make_cfg("whole", TRAIN__CHECKPOINT_FREQ=1))
    whole.train()

    cfg = make_cfg("killed", TRAIN__CHECKPOINT_FREQ=1)
    first = start(cfg)
    plain = first.forward_backward

    def die(batch):
        if first.epoch == after and first.batch_idx == 1:
            raise Killed
        return plain(batch)

    first.forward_backward = die
    with pytest.raises(Killed):
        first.train()
    again = start(cfg)
    again.train()
    assert again.start_epoch == after
    for key, value in whole.model.state_dict().items():
        assert torch.equal(value, again.model.state_dict()[key]), key
    for a, b in zip(whole.optim.state_dict()["state"].values(), again.optim.state_dict()["state"].values()):
        assert torch.equal(a["momentum_buffer"], b["momentum_buffer"])
    assert whole.rates[-1] == again.rates[-1]


def test_a_truncated_newest_checkpoint_is_passed_over(make_cfg, tmp_path, capsys):
    cfg = make_cfg(TRAIN__CHECKPOINT_FREQ=1)
    start(cfg).train()
    newest = tmp_path / "run" / "prompt_learner" / "model.pth.tar-4"
    newest.write_bytes(newest.read_bytes()[:500])
    again = start(cfg)
    again.train()
    assert again.start_epoch == 3 and "truncated" in capsys.readouterr().out


def test_loading_a_truncated_or_missing_checkpoint_is_one_line(make_cfg, tmp_path):
    cfg = make_cfg()
    trainer = start(cfg)
    with pytest.raises(UserError, match="no checkpoint at"):
        trainer.load_model(cfg.OUTPUT_DIR, epoch=4)
    (tmp_path / "bad").write_bytes(b"PK\x03\x04 nothing")
    with pytest.raises(UserError, match="truncated or holds more than tensors"):
        load_checkpoint(tmp_path / "bad")


def test_a_folder_of_another_run_is_refused_with_the_difference(make_cfg):
    claim_run_folder(make_cfg())
    claim_run_folder(make_cfg())
    with pytest.raises(UserError, match=r"OPTIM.LR 0.5 there, 0.1 now"):
        claim_run_folder(make_cfg(OPTIM__LR=0.1))


def test_augmentation_depends_on_neither_workers_nor_order(make_cfg):
    def images(workers):
        trainer = start(make_cfg(DATALOADER__NUM_WORKERS=workers))
        trainer.train_loader_x.set_epoch(2)
        batches = list(trainer.train_loader_x)
        return {int(i): x for b in batches for i, x in zip(b["index"], b["img"])}

    alone, two = images(0), images(2)
    assert alone.keys() == two.keys() and all(torch.equal(alone[i], two[i]) for i in alone)


def test_no_val_is_an_error_never_test(make_cfg, pets, tmp_path):
    import shutil

    shutil.copytree(pets, tmp_path / "noval")
    path = tmp_path / "noval" / "pets" / "split.json"
    split = json.loads(path.read_text())
    path.write_text(json.dumps(split | {"val": []}))
    with pytest.raises(UserError, match="needs a validation part"):
        start(make_cfg(DATASET__ROOT=str(tmp_path / "noval"), TEST__FINAL_MODEL="best_val"))
    trainer = start(make_cfg(DATASET__ROOT=str(tmp_path / "noval")))
    with pytest.raises(UserError, match="'val' part"):
        trainer.test(split="val")


def test_best_val_is_chosen_on_val(make_cfg, tmp_path):
    trainer = start(make_cfg(TEST__FINAL_MODEL="best_val"))
    trainer.load_model = super(type(trainer), trainer).load_model
    trainer.train()
    best = load_checkpoint(tmp_path / "run" / "prompt_learner" / "model-best.pth.tar")
    assert best["val_result"] == pytest.approx(trainer.best_result)
    assert (tmp_path / "run" / "results_val.json").is_file() and (tmp_path / "run" / "results.json").is_file()


@pytest.mark.parametrize("rule", ["error", "skip"])
def test_unreadable_images(make_cfg, pets, tmp_path, rule, capsys):
    import shutil

    shutil.copytree(pets, tmp_path / "bad")
    broken = tmp_path / "bad" / "pets" / "images" / "cat_test_1.png"
    broken.write_bytes(broken.read_bytes()[:60])
    trainer = start(make_cfg(DATASET__ROOT=str(tmp_path / "bad"), DATASET__ON_BAD_IMAGE=rule, OPTIM__MAX_EPOCH=1))
    if rule == "error":
        with pytest.raises(UserError, match=r"unreadable image .*cat_test_1.png"):
            trainer.train()
    else:
        trainer.train()
        assert "skipped unreadable image" in capsys.readouterr().out
        assert json.loads((tmp_path / "run" / "results.json").read_text())["n"] == 11


def test_unknown_trainer_suggests_the_nearest(make_cfg):
    with pytest.raises(UserError, match="did you mean 'PluginCoOp'"):
        build_trainer(make_cfg(TRAINER__NAME="PluginCop"))


class OwnBeforeTrain(PluginCoOp):
    """Overrides the hook without calling the base class, as some plugins do."""

    def before_train(self):
        self.seen = []


def test_before_train_without_the_base_class(make_cfg, tmp_path):
    """Before: AttributeError, `_saved_at` was first set there."""
    trainer = OwnBeforeTrain(make_cfg(OPTIM__MAX_EPOCH=2))
    trainer.train()
    assert trainer.seen == [] and (tmp_path / "run" / "results.json").is_file()
    assert (tmp_path / "run" / "prompt_learner" / "model.pth.tar-2").is_file()
