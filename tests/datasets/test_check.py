"""What check finds: planted copies, planted patients, broken and missing files; and what it says of real splits."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cilmp.datasets.check import check
from cilmp.datasets.picture import draw
from cilmp.tests.datasets import raw_trees
from dassl.utils.errors import UserError

SCRIPT = [sys.executable, Path(__file__).resolve().parents[2] / "cilmp", "check"]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CILMP_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path):
    """A clean set of 3 x 10 random pictures."""
    rows = {part: [[f"{name}/{part}{i}.png", label, name] for label, name in enumerate("abc") for i in range(n)]
            for part, n in (("train", 6), ("val", 2), ("test", 2))}
    folder = tmp_path / "data" / "mine"
    raw_trees.pictures(folder, [file for part in rows.values() for file, *_ in part])
    (folder / "split.json").write_text(json.dumps(rows))
    return folder


def report(folder, **how):
    return check("mine", folder.parent, workers=1, progress=False, **how)


def findings(folder, **how):
    return " | ".join(report(folder, **how).findings)


def test_a_clean_set_has_no_finding(folder):
    found = report(folder)
    assert not found.findings and "files: all 30 are there" in found.text() and "all 30 decode" in found.text()
    assert "not checked: groups" in found.text()


def test_clean_is_said_only_where_groups_were_checked_on_all_images(folder):
    assert report(folder).verdict() == "nothing found, but not checked: groups" and not report(folder).clean
    files = [f.relative_to(folder).as_posix() for f in sorted(folder.glob("*/*.png"))]
    raw_trees.table(folder / "groups.csv", ["file", "group"], [(f, f) for f in files[2:]])
    assert report(folder).verdict() == "nothing found, but not checked: groups of 2 of 30 images"
    raw_trees.table(folder / "groups.csv", ["file", "group"], [(f, f) for f in files])
    assert report(folder).verdict() == "clean"
    assert "decoding" in report(folder, pixels=False).verdict(), "unopened images are not clean either"
    (folder / "dataset.json").write_text(json.dumps({"preparation": {"group_ids": False}}))
    assert report(folder).verdict() == "nothing found, but not checked: patients", "near duplicates are no ids"


def test_a_groups_table_that_fits_nothing_is_a_finding_and_a_pattern_that_fits_nothing_a_bad_call(folder):
    raw_trees.table(folder / "groups.csv", ["file", "group"], [("p1", "a/train0.png"), ("p2", "a/train1.png")])
    assert "none of its 2 rows fits one of the 30 images" in findings(folder)
    assert "the columns are swapped" in findings(folder) and "not checked: groups" in report(folder).text()
    with pytest.raises(UserError, match="finds an id in none of the 30 file names"):
        report(folder, pattern=r"patient(\d+)")


def test_a_cluster_too_large_to_be_copies_is_a_finding_with_three_names(folder):
    for i in range(2, 6):
        for name in "abc":
            raw_trees.picture(folder / name / f"train{i}.png", 4711)
    assert "12 images look like one another, too many to be copies, e.g. a/train2.png, a/train3.png, " \
           "a/train4.png: look at them" in findings(folder)


def test_a_split_file_is_named_by_its_folder_or_its_own_name(folder):
    assert check(folder / "split.json", workers=1, progress=False).name == "mine"
    shutil.move(folder, folder.with_name("Retina"))
    assert check(folder.with_name("Retina") / "split.json", workers=1, progress=False).name == "RETINA"


def test_planted_copies_across_partitions_are_found_exact_and_near(folder):
    shutil.copy(folder / "a/train0.png", folder / "a/test0.png")
    first = findings(folder)
    assert "exact duplicates across partitions: 1 sets of equal images, e.g. a/test0.png = a/train0.png" in first
    raw_trees.picture(folder / "b/test0.png", raw_trees.hash_of("mine/b/train0.png"), size=(60, 50))
    again = findings(folder)
    assert "near duplicates across partitions: 1 pairs of alike images, e.g. b/test0.png = b/train0.png" in again


def test_copies_inside_a_partition_are_a_note_with_two_labels_a_finding(folder):
    shutil.copy(folder / "a/train0.png", folder / "a/train1.png")
    assert "exact duplicates inside a partition: 1 sets" in report(folder).text() and not findings(folder)
    shutil.copy(folder / "a/train0.png", folder / "b/train1.png")
    assert "exact duplicates with two labels: 1 sets" in findings(folder)


def test_a_planted_patient_in_two_partitions_is_found(folder):
    rows = [(f"a/{p}{i}.png", f"{p}{i}") for p, n in (("train", 6), ("val", 2), ("test", 2)) for i in range(n)]
    raw_trees.table(folder / "groups.csv", ["file", "group"], rows)
    assert not findings(folder)
    raw_trees.table(folder / "groups.csv", ["file", "group"], [*rows[:-1], ("a/test1.png", "train0")])
    assert findings(folder) == "group leakage: 1 of the 2 groups of test are also in train"
    assert "group leakage" in findings(folder, pattern=r"(\d)\.png")


def test_broken_missing_and_empty(folder):
    (folder / "a/train0.png").write_bytes((folder / "a/train0.png").read_bytes()[:60])
    assert "1 images can't be read" in findings(folder) and "train0.png" in findings(folder)
    (folder / "a/train0.png").unlink()
    assert "1 of 30 image files are not there" in findings(folder)
    content = json.loads((folder / "split.json").read_text())
    content["test"] = content["test"][2:]
    (folder / "split.json").write_text(json.dumps(content))
    assert "classes without a test image: a" in findings(folder)
    content["test"].append(content["train"][0])
    (folder / "split.json").write_text(json.dumps(content))
    assert "is in 'train' and in 'test'" in findings(folder)


def test_the_published_retina_split_shares_patients_from_its_text_alone(shared_data):
    found = check(shared_data / "biomedcoop_splits" / "split_RETINA.json")
    assert found.name == "RETINA" and len(found.findings) == 1
    assert "363 of the 700 groups of test are also in train" in found.findings[0]
    assert "not checked: 4217 files; no image is here" in found.text()


@pytest.mark.parametrize("name", ["BUSI", "BTMRI", "Kvasir"])
def test_the_other_published_splits_are_clean_as_far_as_their_text_tells(name, shared_data):
    found = check(shared_data / "biomedcoop_splits" / f"split_{name}.json")
    assert not found.findings and "valid split" in found.text() and "no image is here" in found.text()


def test_the_page_is_a_picture_with_and_without_images(folder, tmp_path):
    from cilmp.datasets.split_file import read_split

    split = read_split(folder / "split.json")
    sizes = []
    for base in (folder, None):
        draw(split, base, tmp_path / "page.png", "mine", "a note")
        sizes.append(Image.open(tmp_path / "page.png").size)
    assert sizes[0][0] > sizes[1][0] > 200


@pytest.mark.parametrize("name, note", [
    ("mine", "source-confounded, not a clinical result; " * 6), ("a $b", "$\\frac$"), ("x" * 200, "")])
def test_nothing_on_the_page_is_cut_or_taken_for_a_formula(folder, tmp_path, name, note):
    from cilmp.datasets.split_file import read_split

    draw(read_split(folder / "split.json"), None, tmp_path / "page.png", name, note)
    page = np.asarray(Image.open(tmp_path / "page.png").convert("L"))
    assert min(page[:4].min(), page[-4:].min(), page[:, :4].min(), page[:, -4:].min()) == 255, "ink at the border"


def test_exit_codes_are_clean_found_and_bad_call(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("OUTPUT", str(tmp_path / "out"))
    monkeypatch.chdir(tmp_path)
    from cilmp.datasets import check_command as script

    assert script.main(["mine", "--root", str(folder.parent), "--workers", "1"]) == 0
    page = tmp_path / "out" / "check" / "mine.png"
    assert f"page:  {page}\nmine: nothing found, but not checked: groups" in capsys.readouterr().out and page.is_file()
    monkeypatch.delenv("OUTPUT")
    assert script.main(["mine", "--root", str(folder.parent), "--no-pixels"]) == 0
    assert (tmp_path / "output" / "check" / "mine.png").is_file(), "in the caller's folder, not in the repository"
    shutil.copy(folder / "a/train0.png", folder / "a/test0.png")
    assert script.main([str(folder / "split.json"), "--no-picture", "--workers", "1"]) == 1
    assert "FOUND" in capsys.readouterr().out
    bad = subprocess.run([*SCRIPT, "nobody", "--root", folder.parent], capture_output=True, text=True,
                         timeout=120)
    assert bad.returncode == 2 and "unknown dataset 'nobody'" in bad.stderr and bad.stderr.count("\n") == 1
