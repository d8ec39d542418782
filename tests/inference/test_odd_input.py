"""Odd input to what uses finished runs is one clear line: folders, results, calibrations, addresses that are none."""

import json
import shutil

import numpy as np
import pytest

import cilmp
from cilmp.__main__ import main
from cilmp.inference import calibrate, unlike
from cilmp.inference.export import export
from cilmp.tests.inference.runs import finished_run
from dassl.utils.errors import UserError


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """(run folder, test images, its probabilities) of CoOp."""
    return finished_run("CoOp", tmp_path_factory.mktemp("coop"))


@pytest.fixture
def copied(run, tmp_path):
    return shutil.copytree(run[0], tmp_path / "copy")


def changed(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_one_training_image_a_class_gives_no_flag_and_says_why():
    features = np.eye(3, 8)
    with pytest.raises(UserError, match="of one class don't differ"):
        unlike.fitted(features, [0, 1, 2])
    with pytest.raises(UserError, match="of one class don't differ"):
        unlike.fitted(np.repeat(features, 2, 0), [0, 0, 1, 1, 2, 2])


def test_a_bundle_is_not_calibrated(run, tmp_path):
    """Its files would be others than its hashes say."""
    export(run[0], tmp_path / "output" / "bundle")
    with pytest.raises(UserError, match=r"is a bundle.*calibrate the run it was made of"):
        calibrate.runs_below(tmp_path / "output" / "bundle")
    shutil.copytree(run[0], tmp_path / "output" / "run")
    assert calibrate.runs_below(tmp_path / "output") == [tmp_path / "output" / "run"]


def test_results_of_something_else(copied, capsys):
    changed(copied / "results.json", lambda content: content["spec"].pop("method"))
    with pytest.raises(UserError, match=r"results\.json: it is not a run's results \(spec\.method is missing\)"):
        cilmp.load(copied)
    with pytest.raises(UserError, match="no finished run"):
        calibrate.runs_below(copied)
    assert "spec.method is missing" in capsys.readouterr().out


@pytest.mark.parametrize("content, said", [
    ({}, r"form None"), ({"form": 2}, r"form 2"),
    ({"form": 1, "classes": ["left lung"]}, r"of other classes"),
    ({"form": 1, "classes": ["left lung", "heart", "liver"]}, r"temperature is missing"),
])  # fmt: skip
def test_a_calibration_that_is_none_of_this_run(copied, content, said):
    (copied / "calibration.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=rf"calibration\.json .*{said}"):
        cilmp.load(copied)


def test_a_table_is_not_written_over_what_was_read(run, tmp_path):
    table = tmp_path / "ward.csv"
    table.write_text(f"image,age\n{run[1][0]},70\n")
    with pytest.raises(UserError, match=r"--out .*ward\.csv is one of the files to read"):
        main(["predict", str(run[0]), str(table), "--out", str(tmp_path / "." / "ward.csv")])
    assert "age" in table.read_text()


@pytest.mark.parametrize("address", ["hub:../x", "hub:a/b/c", "hub:", "hub:a b/c"])
def test_an_address_that_none_has(address):
    with pytest.raises(UserError, match="USER/NAME"):
        cilmp.load(address)
