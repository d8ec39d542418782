"""LLM rows that are not asked or not used as usual: what a run kept is what it used."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import cilmp
from cilmp.knowledge import controls
from cilmp.knowledge.shelf import SHIPPED
from cilmp.knowledge.store import read_metadata
from cilmp.tests.inference.runs import NAMES, finished_run
from dassl.utils.paths import cache_root


def stored(kind):
    """Rows of the demo's language model on NAMES, as if asked in the words of this kind."""
    (shipped,) = SHIPPED.glob("phantom/*.safetensors")
    facts = read_metadata(shipped)
    asked = controls.questions(None, NAMES, kind)
    facts |= {"template": controls.template(kind), "questions": asked, "answers": {n: f"{n}!" for n in NAMES}}
    facts.pop("classes")
    words = {k: v if isinstance(v, str) else json.dumps(v) for k, v in facts.items()}
    path = cache_root() / "knowledge" / "noise" / f"{kind}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({n: torch.randn(10, 16).bfloat16() for n in NAMES}, str(path), metadata=words)


@pytest.mark.parametrize("kind", ["shuffled", "mean", "random", "name_only"])
def test_controls(kind, tmp_path, monkeypatch):
    monkeypatch.setenv("CILMP_CACHE", str(tmp_path / "cache"))
    (tmp_path / "place").mkdir()
    options = {"TRAINER.CILMP.KNOWLEDGE": kind}
    if kind == "name_only":
        stored(kind)
        options["MODEL.LLM"] = "smollm2-135m"
    run, paths, wanted = finished_run("CILMP", tmp_path / "place", **options)
    monkeypatch.setenv("CILMP_CACHE", str(tmp_path / "another"))
    model = cilmp.load(run)
    assert np.abs(model.predict_proba(paths) - wanted).max() < 1e-5
    kept = read_metadata(run / "knowledge.safetensors")
    assert sorted(kept["classes"]) == sorted(NAMES)
    if kind == "name_only":
        assert kept["questions"] == {n: n for n in NAMES} and kept["answers"] == {n: f"{n}!" for n in NAMES}
        assert load_file(run / "knowledge.safetensors")[NAMES[0]].dtype == torch.bfloat16, "as it was stored"
