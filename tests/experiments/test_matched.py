"""HPARAMS=matched: CoOp's number of steps for every method that has steps; the others run as they are."""

import pytest

from cilmp import trainers
from cilmp.experiments.settings import Request, base_config
from dassl.utils.errors import ConfigError

WITHOUT_STEPS = {"LP2", "LinearProbe", "SSText", "TipAdapter", "ZeroshotCLIP", "ZeroshotCLIP2"}
WITH_STEPS = {"CILMP", "CLIPAdapter", "CLIPLoRA", "CLIPSVD", "CoOp", "FineTune", "MaPLe", "TipAdapterF", "VPT"}


@pytest.fixture(scope="module")
def base():
    return base_config()


def asked(base, method="all", protocol="few_shot", dataset="BUSI", **variables):
    request = Request(protocol, method, dataset, [1], {"HPARAMS": "matched", "LLM": "smollm2-135m"} | variables)
    return {(s.method, s.shots): s.config for s in request.specs(base)}


def test_every_method_gets_coops_epochs_at_that_shot(base):
    """50 epochs at 1 shot, 100 at 4, 200 at 16, of batches of 32; all else is a method's own."""
    found = asked(base, SHOTS="1 4 16")
    own = asked(base, SHOTS="1 4 16", HPARAMS="official")
    without = {name for name, trainer in trainers.methods().items() if trainer.without_budget()}
    assert {m for m, _ in found} == set(trainers.methods()) and without >= WITHOUT_STEPS and not without & WITH_STEPS
    for (method, shots), cfg in found.items():
        if method in without:
            assert cfg == own[method, shots]
            continue
        epochs = {1: 50, 4: 100, 16: 200}[shots]
        assert list(cfg.OPTIM.BUDGET) == [epochs, 32] and cfg.RUN.HPARAMS == "matched"
        changed = cfg.clone()
        changed.defrost()
        changed.OPTIM.BUDGET, changed.RUN.HPARAMS = (), own[method, shots].RUN.HPARAMS  # official, but for sentences
        assert changed == own[method, shots]


def test_the_demo_has_coops_demo_length_and_epochs_says_another(base):
    assert asked(base, "CoCoOp", dataset="phantom")["CoCoOp", 1].OPTIM.BUDGET == (40, 32)
    cfg = asked(base, "CoCoOp", dataset="phantom", EPOCHS="2")["CoCoOp", 1]
    assert (cfg.OPTIM.BUDGET, cfg.OPTIM.MAX_EPOCH, cfg.RUN.HPARAMS) == ((2, 32), 40, "custom")


def test_a_realistic_comparison_is_matched(base):
    assert asked(base, "MaPLe", "realistic", SHOTS="1", HPARAMS="")["MaPLe", 1].OPTIM.BUDGET == (50, 32)
    cfg = asked(base, "MaPLe", "realistic", SHOTS="1", HPARAMS="", CFG="vit_b16")["MaPLe", 1]
    assert cfg.OPTIM.BUDGET == () and cfg.OPTIM.MAX_EPOCH == 5
    assert asked(base, "TipAdapter", "realistic", SHOTS="1", HPARAMS="")  # nobody asked for what it has not


@pytest.mark.parametrize("method, words", [
    ("TipAdapter", "HPARAMS=matched: nothing to match for TipAdapter - it is fitted, without optimiser steps"),
    ("ZeroshotCLIP", "HPARAMS=matched: nothing to match for ZeroshotCLIP - it trains nothing"),
])  # fmt: skip
def test_matched_for_what_has_no_steps_is_one_line(base, method, words):
    with pytest.raises(ConfigError, match=words):
        asked(base, method)


def test_common_names_what_there_is_now():
    with pytest.raises(ConfigError, match=r"HPARAMS=common is no more .* choose matched"):
        Request("few_shot", "CoOp", "BUSI", [1], {"HPARAMS": "common"})
    with pytest.raises(ConfigError, match="choose official or matched"):
        Request("few_shot", "CoOp", "BUSI", [1], {"HPARAMS": "fair"})


@pytest.mark.parametrize("method", ["MaPLe", "IVLP", "VPT"])
def test_few_shots_are_not_five_steps(base, method):
    assert asked(base, method, HPARAMS="official")[method, 1].OPTIM.MAX_EPOCH == 50
    assert asked(base, method, "base2new", HPARAMS="official")[method, 16].OPTIM.MAX_EPOCH == 5
