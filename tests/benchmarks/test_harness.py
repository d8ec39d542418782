"""A benchmark's step is of the method's own settings."""

import pytest
import torch
from safetensors.torch import load_file

from cilmp.benchmarks import harness
from cilmp.benchmarks.cases import names


class Built(Exception):
    """Instead of a trainer at real size."""


@pytest.mark.parametrize("method", ["CoOp", "CILMP"])
def test_a_step_has_the_official_settings(method, monkeypatch):
    seen = []

    def build(cfg):
        seen.append(cfg)
        raise Built

    monkeypatch.setattr(harness, "build_trainer", build)
    with pytest.raises(Built):
        harness.HarnessStep(method, B=2, C=3, names=names, rows=10, width=16)
    files, _, kind = harness.method_files(method, "base2new", "ViT-B/16")
    own = harness.base_config()
    for file in files:
        own.merge_from_file(str(file))
    assert kind == "official" and seen[0].OPTIM.LR == own.OPTIM.LR and seen[0].OPTIM.MAX_EPOCH == own.OPTIM.MAX_EPOCH
    assert seen[0].MODEL.BACKBONE.WEIGHTS == "random" and method == seen[0].TRAINER.NAME


def test_what_is_made_up_is_the_same_each_time_and_moves_no_generator(tmp_path):
    torch.manual_seed(5)
    wanted = torch.rand(1)
    torch.manual_seed(5)
    first, second = (load_file(harness.make_believe(tmp_path / name, ["heart", "left lung"], 3, 4, 1, 8)["MODEL.LLM"])
                     for name in "ab")  # fmt: skip
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["heart"], first["left lung"]) and torch.equal(torch.rand(1), wanted)
