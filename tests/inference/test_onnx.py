"""ONNX files: the run's own probabilities for 1, 3 and 64 images, of every method whose answer is one image's."""

import json

import numpy as np
import pytest
import torch

import cilmp
from cilmp import trainers
from cilmp.inference import onnx
from cilmp.tests.inference import test_every_method as every
from dassl.utils.errors import ConfigError
from dassl.utils.paths import REPO

TOGETHER = {name for name, method in trainers.methods().items() if method.transductive}
ALONE = sorted(set(trainers.methods()) - TOGETHER)
CASES = [pytest.param("CoOp", {}, id="CoOp"), pytest.param("CILMP", {"PROMPT_DEPTH_TEXT": 2}, id="CILMP, two levels")]
CASES += [pytest.param(m, {}, id=m, marks=pytest.mark.slow) for m in ALONE if m != "CoOp"]


@pytest.fixture(autouse=True)
def packages():
    for name in onnx.NEEDS:
        pytest.importorskip(name)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """runs(method, options) -> (run folder, image paths), the training's data gone; made once."""
    made = {}

    def run(method, options=None):
        key = method, str(options or {})
        if key not in made:
            with pytest.MonkeyPatch.context() as patch:
                for name, value in (options or {}).items():
                    patch.setitem(every.QUICK, name, value)
                made[key] = every.trained(method, tmp_path_factory.mktemp(method))[:2]
        return made[key]

    return run


@pytest.mark.parametrize("method, options", CASES)
def test_the_runs_probabilities(method, options, runs, tmp_path):
    run, paths = runs(method, options)
    model = cilmp.load(run, device="cpu")
    path = onnx.export(model, tmp_path / "model.onnx")
    assert str(REPO).encode() not in path.read_bytes()
    runner = onnx.session(path)
    facts = runner.get_modelmeta().custom_metadata_map
    assert json.loads(facts["classes"]) == model.classes and facts["method"] == method
    given = model.trainer.cfg.INPUT
    mean, std = (torch.tensor(x)[:, None, None] for x in (given.PIXEL_MEAN, given.PIXEL_STD))
    for count in (1, 3, 64):
        chosen = (paths * 64)[:count]
        pixels = next(model.read(chosen, batch_size=64)) * std + mean
        found = onnx.answers(runner, pixels)
        assert found.shape == (count, 3) and np.abs(found.numpy() - model.predict_proba(chosen)).max() < 1e-4
    assert len({tuple(p.round(decimals=6).tolist()) for p in onnx.answers(runner, pixels)}) > 1


@pytest.mark.parametrize("method", sorted(TOGETHER))
def test_answers_that_are_not_of_one_image(method, runs, tmp_path):
    with pytest.raises(ConfigError, match=f"{method} answers all images of a call together") as refused:
        onnx.export(cilmp.load(runs(method)[0], device="cpu"), tmp_path / "model.onnx")
    assert "\n" not in str(refused.value) and not list(tmp_path.iterdir())


def test_a_graph_that_answers_otherwise_is_not_written(runs, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx, "_write", lambda *_: None)
    monkeypatch.setattr(onnx, "difference", lambda *_: 0.2)
    with pytest.raises(ValueError, match=r"was not written.*2\.0e-01"):
        onnx.export(cilmp.load(runs("CoOp")[0], device="cpu"), tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_packages_that_are_missing(runs, tmp_path, monkeypatch):
    model = cilmp.load(runs("CoOp")[0], device="cpu")
    monkeypatch.setattr(onnx, "NEEDS", ("onnx", "no_such_package"))
    with pytest.raises(ConfigError, match=r"ONNX needs no_such_package: pip install 'cilmp\[onnx\]'"):
        onnx.export(model, tmp_path / "model.onnx")
