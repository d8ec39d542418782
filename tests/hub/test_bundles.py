"""A bundle goes to the hub and comes back; who may not write is told so."""

import shutil

import numpy as np
import pytest

import cilmp
from cilmp.inference import bundle
from cilmp.inference.export import export
from cilmp.tests.hub.server import TOKEN
from cilmp.tests.inference.runs import finished_run
from dassl.utils.errors import UserError


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    run, paths, _ = finished_run("CoOp", tmp_path_factory.mktemp("hub"))
    return export(run, run.parent / "bundle", with_backbone=True), paths


def test_there_and_back(exported, hub, cache, monkeypatch):
    from huggingface_hub import constants

    folder, paths = exported
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert bundle.push(folder, "me/coop") == f"{hub.url}/me/coop"
    assert hub.repositories["models", "me/coop"].private
    wanted = cilmp.load(folder).predict_proba(paths)
    assert np.array_equal(cilmp.load("hub:me/coop").predict_proba(paths), wanted)
    assert bundle.push(folder, "me/coop"), "a second time"


def test_who_may_not_write(exported, hub, cache, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_another")
    with pytest.raises(UserError, match=r"does not let you write me/coop \(401\): `hf auth login`"):
        bundle.push(exported[0], "me/coop")


def test_what_is_no_bundle(hub, cache, tmp_path, exported):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "README.md").write_text("hello")
    hub.add("other/model", tmp_path / "model")
    with pytest.raises(UserError, match="other/model is no bundle"):
        cilmp.load("hub:other/model")
    shutil.copytree(exported[0], tmp_path / "changed")
    hub.add("other/changed", tmp_path / "changed")
    with open(tmp_path / "changed" / "results.json", "a") as f:
        f.write(" ")
    with pytest.raises(UserError, match=r"results.json was changed since the bundle was made"):
        cilmp.load("hub:other/changed")
