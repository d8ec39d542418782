"""Trainers of the CoOp family in our protocols: their load_model() and their own test()."""

import json
import os
import subprocess
import sys

import pytest

from cilmp.tests.dassl.upstream_plugin import PluginCoOp
from dassl.utils import set_random_seed
from dassl.utils.paths import REPO
from dassl.utils.torchtools import BEST

PLUGIN = '''
import os.path as osp
import torch
from torch import nn
from torch.nn import functional as F
from dassl.engine import TRAINER_REGISTRY, TrainerX
from dassl.optim import build_lr_scheduler, build_optimizer
from dassl.utils import load_checkpoint


class Prompted(nn.Module):
    def __init__(self, n):
        super().__init__()
        self.scale, self.rows = nn.Parameter(torch.ones(1, 1)), nn.Buffer(torch.randn(n, 48), persistent=False)

    def forward(self, images):
        return F.normalize(F.adaptive_avg_pool2d(images, 4).flatten(1), dim=1) @ self.rows.T * self.scale


@TRAINER_REGISTRY.register()
class Upstreams(TrainerX):
    def build_model(self):
        self.model = Prompted(self.num_classes).to(self.device)
        self.optim = build_optimizer(self.model, self.cfg.OPTIM)
        self.sched = build_lr_scheduler(self.optim, self.cfg.OPTIM)
        self.register_model("prompt_learner", self.model, self.optim, self.sched)

    def forward_backward(self, batch):
        images, labels = self.parse_batch_train(batch)[:2]
        loss = F.cross_entropy(self.model(images), labels)
        self.model_backward_and_update(loss)
        return {"loss": loss.item()}

    def load_model(self, directory, epoch=None):
        name = "model-best.pth.tar" if epoch is None else "model.pth.tar-" + str(epoch)
        path = osp.join(directory, "prompt_learner", name)
        if not osp.exists(path):
            raise FileNotFoundError('Model not found at "{}"'.format(path))
        self.model.load_state_dict(load_checkpoint(path)["state_dict"], strict=False)


@TRAINER_REGISTRY.register()
class OwnTest(Upstreams):
    def test(self, split=None):
        print("* accuracy: 50.0%")
        return 50.0
'''


@pytest.fixture
def run(tmp_path):
    (tmp_path / "upstreams.py").write_text(PLUGIN)

    def start(protocol, methods):
        env = {k: v for k, v in os.environ.items() if k not in ("DATA", "SHOTS", "METHODS")}
        env |= {"OUTPUT": str(tmp_path / "out"), "PLUGIN": "upstreams.py", "EPOCHS": "1", "SHOTS": "1"}
        words = [sys.executable, REPO / "cilmp", "run", protocol, methods, "phantom", "1"]
        return subprocess.run(list(map(str, words)), cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300)

    return start


def test_base2new_finishes(run, tmp_path):
    """Before: the test on new classes asked for model-best.pth.tar, which nobody had written."""
    done = run("base2new", "ZeroshotCLIP,Upstreams")
    assert done.returncode == 0, done.stdout + done.stderr
    table = json.loads((tmp_path / "out" / "base2new" / "phantom" / "table.json").read_text())
    assert [row[0] for row in table["rows"]] == ["ZeroshotCLIP", "Upstreams"] and "-" not in table["rows"][1]


def test_an_own_test_without_results_fails_alone(run, tmp_path):
    """Before: the missing results.json ended the whole comparison."""
    done = run("few_shot", "ZeroshotCLIP,OwnTest,Upstreams")
    printed = done.stdout + done.stderr
    lines = [line for line in printed.splitlines() if "OwnTest" in line and "failed - " in line]
    assert lines and all("it wrote no results.json, which tables" in line for line in lines), printed
    assert "Traceback" not in printed and done.returncode != 0
    table = json.loads((tmp_path / "out" / "few_shot" / "phantom" / "table.json").read_text())
    assert [row[0] for row in table["rows"]] == ["ZeroshotCLIP", "Upstreams"]


def test_the_epoch_to_load(make_cfg, tmp_path):
    set_random_seed(1)
    trainer = PluginCoOp(make_cfg(OPTIM__MAX_EPOCH=2, TRAIN__CHECKPOINT_FREQ=1))
    assert trainer.epoch_to_load(tmp_path / "run") is None
    trainer.train()
    folder = tmp_path / "run"
    assert (trainer.epoch_to_load(folder), trainer.epoch_to_load(folder, 1)) == (2, 1)
    (folder / "prompt_learner" / "model.pth.tar-2").write_bytes(b"cut")
    assert trainer.epoch_to_load(folder) == 1
    (folder / "prompt_learner" / BEST).write_bytes(b"")
    assert trainer.epoch_to_load(folder) is None and trainer.epoch_to_load("") is None
