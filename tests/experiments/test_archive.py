"""An archive holds what a report needs and nothing else; a report of several refuses what does not fit together."""

import json
import shutil
import socket
import stat
import zipfile

import numpy as np
import pytest

from cilmp.experiments import archive, report
from cilmp.experiments.collect import records
from dassl.utils.errors import MissingFile, UserError

from .test_finished import place  # noqa: F401 - a fixture


@pytest.fixture
def packed(place):  # noqa: F811
    root, run = place
    found = run(seeds=(1, 2))
    assert archive.pack(root / "out", root / "mine.zip") == len(found) == 2
    return root


def test_an_archive_holds_results_and_neither_images_nor_weights(packed):
    names = zipfile.ZipFile(packed / "mine.zip").namelist()
    curves = {n for n in names if "/tensorboard/events.out." in n}
    assert len(curves) == 2  # a report draws them
    assert not [n for n in curves if socket.gethostname() in n], "the name of this machine"
    assert {n.rsplit("/")[-1] for n in names if n.startswith("runs/") and n not in curves} == {
        "results.json", "predictions.npz", "predictions_whole_val.npz", "config.yaml", "reads.json"}  # fmt: skip
    assert [n for n in names if n.startswith("few_shot/mydata/") and n.endswith("seed_1.json")]
    assert not [n for n in names if n.endswith((".png", ".safetensors", ".pt", "checkpoint"))]


def test_the_report_of_an_archive_is_that_of_the_folder(packed):
    report.main([packed / "out"], packed / "a")
    report.main([packed / "mine.zip"], packed / "b")
    assert (packed / "a" / "report.md").read_text() == (packed / "b" / "report.md").read_text()
    report.main([packed / "out", packed / "mine.zip"], packed / "c")  # the same runs twice are one
    assert (packed / "c" / "report.md").read_text() == (packed / "a" / "report.md").read_text()
    with archive.opened([packed / "mine.zip"]) as (folder,):
        first, second = records(folder)[0]["folder"], records(packed / "out")[0]["folder"]
        for name in ("labels", "predictions", "probabilities"):
            with np.load(first / "predictions.npz") as a, np.load(second / "predictions.npz") as b:
                assert (a[name] == b[name]).all()


def test_one_run_with_two_results_is_refused_and_named(packed):
    shutil.copytree(packed / "out", packed / "other")
    path = records(packed / "other")[0]["folder"] / "results.json"
    content = json.loads(path.read_text())
    content["metrics"]["accuracy"] += 1
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"are the same run .* with other results; leave one out"):
        report.main([packed / "mine.zip", packed / "other"], packed / "r")


@pytest.mark.parametrize("name", ["../evil.json", "runs/../../evil.json", "/etc/evil.json", "runs/model.pkl", "x.json"])
def test_what_is_no_part_of_an_archive_is_not_unpacked(tmp_path, name):
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as z:
        z.writestr(name, "{}")
    with pytest.raises(UserError, match="which is no part of an archive"):
        report.main([tmp_path / "bad.zip"])
    assert not list(tmp_path.parent.glob("evil*"))


def test_a_link_in_an_archive_is_refused(tmp_path):
    info = zipfile.ZipInfo("runs/a/results.json")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as z:
        z.writestr(info, "/etc/passwd")
    with pytest.raises(UserError, match="which is no part of an archive"):
        report.main([tmp_path / "bad.zip"])


def test_mistakes_are_one_line(tmp_path):
    (tmp_path / "text.zip").write_text("not a zip")
    with pytest.raises(UserError, match="is not an archive of results"):
        report.main([tmp_path / "text.zip"])
    with pytest.raises(MissingFile, match="no output folder or archive"):
        report.main([tmp_path / "nowhere"])
    with pytest.raises(MissingFile, match="no finished runs"):
        archive.pack(tmp_path, tmp_path / "a.zip")
    assert not (tmp_path / "a.zip").exists()
