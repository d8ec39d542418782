"""ONNX files: the run's own probabilities for 1, 3 and 64 images, of every method whose answer is one image's."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import cilmp
from cilmp import trainers
from cilmp.__main__ import main as command
from cilmp.inference import onnx
from cilmp.tests.backbones.small_models import small
from cilmp.tests.inference.runs import finished_run
from cilmp.tests.trainers import cilmp_cases as cases
from dassl.config import get_cfg_default
from dassl.utils.errors import ConfigError
from dassl.utils.paths import REPO

TOGETHER = {name for name, method in trainers.methods().items() if method.transductive}
ALONE = sorted(set(trainers.methods()) - TOGETHER)
CASES = [pytest.param(m, marks=() if m == "CoOp" else pytest.mark.slow) for m in ALONE]


@pytest.fixture(autouse=True)
def packages():
    for name in onnx.NEEDS:
        pytest.importorskip(name)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """runs(method) -> (run folder, image paths), the training's data gone; made once."""
    made = {}

    def run(method):
        if method not in made:
            made[method] = finished_run(method, tmp_path_factory.mktemp(method))[:2]
        return made[method]

    return run


@pytest.mark.parametrize("method", CASES)
def test_the_runs_probabilities(method, runs, tmp_path):
    run, paths = runs(method)
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


def test_a_text_branch_that_sees_the_image(tmp_path):
    """CILMP on two layers with ragged rows; its whole demo run is a slow test."""
    clip = small("openai", layers=2)
    learner = cases.learner(clip, ["nevus", "basal cell carcinoma", "scar"], cases.rows([9, 11, 8], 16)).eval()
    cases.wake(learner)
    cfg = get_cfg_default()
    cfg.merge_from_list(["INPUT.SIZE", (32, 32), "INPUT.PIXEL_MEAN", clip.mean, "INPUT.PIXEL_STD", clip.std])
    graph = onnx.Graph(SimpleNamespace(trainer=SimpleNamespace(model=learner, clip=clip, cfg=cfg))).eval()
    with torch.no_grad():
        onnx._write(graph, {}, tmp_path / "model.onnx")
    assert onnx.difference(graph, tmp_path / "model.onnx", counts=(1, 3, 64)) < 1e-4
    first, second = onnx.answers(onnx.session(tmp_path / "model.onnx"), graph.example(2))
    assert (first - second).abs().max() > 1e-3  # images differ, so the comparison says something


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


def test_a_bundle_with_it(runs, tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr(onnx, "_write", lambda graph, facts, path: written.append(facts) or path.write_bytes(b"graph"))
    monkeypatch.setattr(onnx, "difference", lambda *_: 0.0)
    run, paths = runs("CoOp")
    assert command(["export", str(run), str(tmp_path / "bundle"), "--onnx"]) == 0
    assert (tmp_path / "bundle" / onnx.NAME).read_bytes() == b"graph" and written[0]["method"] == "CoOp"
    cilmp.load(tmp_path / "bundle").predict(paths[:1])  # whose every file has its hash
