"""predictions_whole_val.npz: what calibration is fitted on. It changes nothing of the run, and never reads test."""

import json

import numpy as np
import pytest

from cilmp.experiments import archive
from dassl.data import data_manager
from dassl.engine import whole_val

from .test_finished import make_set, place  # noqa: F401 - a fixture

OPTS = "DATALOADER.TRAIN_X.BATCH_SIZE 4"


def kept(record):
    with np.load(record["folder"] / whole_val.NAME, allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


def val_of(root):
    return {row[0] for row in json.loads((root / "data" / "mydata" / "split.json").read_text())["val"]}


def test_all_of_val_is_kept_of_a_run_that_saw_one_image_a_class(place):  # noqa: F811
    root, run = place
    (record,) = run(SHOTS="1")
    found = kept(record)
    assert {path.split("mydata/")[1] for path in found["paths"]} == val_of(root) and len(found["paths"]) == 8
    assert found["probabilities"].shape == (8, 4) and found["probabilities"].sum(1) == pytest.approx(1)
    assert list(found["classes"]) == record["classes"] and not found["used"].any()
    assert (found["predictions"] == found["probabilities"].argmax(1)).all()


@pytest.mark.parametrize("method", ["CILMP", pytest.param("TransCLIPFS", marks=pytest.mark.slow)])
def test_no_number_and_no_key_of_the_run_depends_on_it(place, method):  # noqa: F811
    _, run = place
    (with_it,) = run(method, output="with", LLM="smollm2-135m")
    (without,) = run(method, output="without", LLM="smollm2-135m", OPTS=OPTS + " TEST.WHOLE_VAL False")
    assert (with_it["folder"] / whole_val.NAME).is_file() and not (without["folder"] / whole_val.NAME).exists()
    for name in ("key", "metrics", "ci95", "confusion", "per_class", "hparams", "config_sha256"):
        assert with_it[name] == without[name], name
    with np.load(with_it["folder"] / "predictions.npz") as a, np.load(without["folder"] / "predictions.npz") as b:
        assert all((a[name] == b[name]).all() for name in a.files)


def test_nothing_but_val_is_read_for_it(place, monkeypatch):  # noqa: F811
    root, run = place
    read, seen = data_manager.read_image, []
    predicted = whole_val.predicted

    def watched(trainer, items):
        monkeypatch.setattr(data_manager, "read_image", lambda path: seen.append(str(path)) or read(path))
        try:
            return predicted(trainer, items)
        finally:
            monkeypatch.setattr(data_manager, "read_image", read)

    monkeypatch.setattr(whole_val, "predicted", watched)
    run(OPTS=OPTS + " TRAIN.CACHE_FEATURES False")
    assert {path.split("mydata/")[1] for path in seen} == val_of(root)


@pytest.mark.parametrize("method, opts, used", [("CoOp", " TEST.FINAL_MODEL best_val", 4), ("TipAdapter", "", 4)])
def test_images_that_chose_the_model_are_marked(place, method, opts, used):  # noqa: F811
    _, run = place
    (record,) = run(method, SHOTS="1", OPTS=OPTS + opts)
    assert kept(record)["used"].sum() == used


def test_only_the_run_that_trains_keeps_it_and_of_its_own_classes(place):  # noqa: F811
    _, run = place
    base, new = sorted(run(protocol="base2new"), key=lambda r: r["spec"]["part"] != "train_base")
    assert kept(base)["probabilities"].shape == (4, 2) and not (new["folder"] / whole_val.NAME).exists()


def test_a_split_without_val_is_a_line_in_the_log(place):  # noqa: F811
    root, run = place
    path = root / "data" / "mydata" / "split.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"val": []}))
    (record,) = run()
    assert not (record["folder"] / whole_val.NAME).exists()
    said = (record["folder"] / "log.txt").read_text()
    assert f"no {whole_val.NAME}, so no calibration: mydata has no val part" in said


def test_an_unreadable_val_image_stops_no_run(place):  # noqa: F811
    root, run = place
    make_set(root / "data")
    (root / "data" / "mydata" / sorted(val_of(root))[0]).write_bytes(b"no image")
    (record,) = run(SHOTS="1", seeds=(2,), OPTS=OPTS + " DATALOADER.NUM_WORKERS 0")
    assert not (record["folder"] / whole_val.NAME).exists()
    assert f"no {whole_val.NAME}" in (record["folder"] / "log.txt").read_text()


def test_an_archive_holds_it(place):  # noqa: F811
    root, run = place
    run()
    archive.pack(root / "out", root / "mine.zip")
    with archive.opened([root / "mine.zip"]) as (folder,):
        assert len(list(folder.rglob(whole_val.NAME))) == 1
