"""The small JSON files that commands read of a run: whatever lacks, is of another kind or cut off is one line."""

import json

import pytest

from cilmp.experiments import launch
from cilmp.experiments.kept import FILE
from cilmp.experiments.run import facts_of_source
from cilmp.inference import bundle, calibration
from cilmp.inference.model import kept_of
from cilmp.protocols import RunSpec
from dassl.engine.run_folder import _claim_reads
from dassl.utils.errors import UserError
from dassl.utils.io import write_json

CLASSES = ["heart", "liver"]
KEPT = {"form": 1, "version": "0.4.1", "classes": CLASSES, "knowledge_names": CLASSES, "phrases": {}, "modality": "",
        "labels": {"train_x": [0, 1], "val": []}, "input": {"SIZE": [224, 224]}, "home": "", "licence": "",
        "code": None, "plugins": [], "plugins_sha256": []}  # fmt: skip
CALIBRATION = {"form": 1, "classes": CLASSES, "temperature": {"value": 1.5, "on": "val"},
               "sets": {"method": "lac", "level": 0.9, "thresholds": [0.5, 0.5]},
               "unlike": {"threshold": 9.0, "level": 0.95}}  # fmt: skip
BUNDLE = {"form": 1, "version": "0.4.1", "method": "CoOp", "code": None, "data": {}, "files": {"a.json": "0" * 64},
          "backbone": {"name": "demo", "sha256": "", "folder": ""}}  # fmt: skip


def wrong(content, *keys):
    """(place, content) without a key, with another kind of value there, and so in the dicts of `keys`."""
    for key in content:
        yield key, {k: v for k, v in content.items() if k != key}
        yield key, content | {key: 7}
    for key in keys:
        for place, inner in wrong(content[key]):
            yield f"{key}.{place}", content | {key: inner}


def refused(read, path, place):
    with pytest.raises(UserError) as error:
        read()
    text = str(error.value)
    assert str(path) in text and place in text and "\n" not in text, text


def test_kept(tmp_path):
    path, optional = tmp_path / FILE, ("home", "licence", "code", "plugins_sha256", "modality", "form")
    write_json(KEPT, path)
    assert kept_of(tmp_path, {}) == KEPT
    for place, content in wrong(KEPT, "labels"):
        if place not in optional:
            write_json(content, path)
            refused(lambda: kept_of(tmp_path, {}), path, place)
    for labels in ([0, 2], [-1], ["heart"]):
        write_json(KEPT | {"labels": {"train_x": labels, "val": []}}, path)
        refused(lambda: kept_of(tmp_path, {}), path, "labels")
    for place, content in wrong({"classes": CLASSES, "labels": KEPT["labels"], "dataset": "BUSI"}):
        write_json(KEPT | {"trained_on": content}, path)
        refused(lambda: kept_of(tmp_path, {}), path, f"trained_on.{place}")
    path.write_text(json.dumps(KEPT)[:-9])
    refused(lambda: kept_of(tmp_path, {}), path, "not valid JSON")


def test_calibration(tmp_path):
    path = tmp_path / "calibration.json"
    write_json(CALIBRATION, path)
    assert calibration.read(tmp_path, CLASSES) == CALIBRATION
    write_json(CALIBRATION | {"sets": None, "unlike": None}, path)
    assert calibration.read(tmp_path, CLASSES)
    for place, content in wrong(CALIBRATION, "sets"):
        if place not in ("form", "classes", "sets.level"):
            write_json(content, path)
            refused(lambda: calibration.read(tmp_path, CLASSES), path, place)
    write_json(CALIBRATION | {"temperature": {}}, path)
    refused(lambda: calibration.read(tmp_path, CLASSES), path, "temperature.value")


def test_bundle(tmp_path):
    path = tmp_path / bundle.FILE
    for place, content in wrong(BUNDLE, "backbone"):
        if place in ("files", "backbone", "backbone.folder"):
            write_json(content | {"sha256": bundle.sha256_of(content)}, path)
            refused(lambda: bundle.read(tmp_path), path, place)


@pytest.mark.parametrize("content", [{}, {"cost": {}}, {"metrics": []}])
def test_results_of_a_run_that_another_reads(content, tmp_path, monkeypatch):
    path = tmp_path / "results.json"
    write_json(content, path)
    spec = type("Spec", (), {"source": None, "dataset": "BUSI"})
    refused(lambda: facts_of_source(spec, tmp_path), path, "not a run's results")
    monkeypatch.setattr(launch, "results_of", lambda *_: path)
    refused(lambda: launch.accuracy_of(RunSpec, tmp_path), path, "not a run's results")


def test_reads(tmp_path):
    write_json([], tmp_path / "reads.json")
    refused(lambda: _claim_reads(tmp_path / "reads.json", {"split": "0"}), tmp_path / "reads.json", "JSON object")
