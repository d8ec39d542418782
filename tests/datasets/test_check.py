"""What check finds: planted copies, planted patients, broken and missing files; and what it says of real splits."""

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import raw_trees
from PIL import Image

from datasets.check import check
from datasets.picture import draw

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "check_dataset.py"


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
    assert found.clean, found.text()
    assert "files: all 30 are there" in found.text() and "images: all 30 decode" in found.text()
    assert "not checked: groups" in found.text()


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
    assert "exact duplicates inside a partition: 1 sets" in report(folder).text() and report(folder).clean
    shutil.copy(folder / "a/train0.png", folder / "b/train1.png")
    assert "exact duplicates with two labels: 1 sets" in findings(folder)


def test_a_planted_patient_in_two_partitions_is_found(folder):
    rows = [(f"a/{p}{i}.png", f"{p}{i}") for p, n in (("train", 6), ("val", 2), ("test", 2)) for i in range(n)]
    raw_trees.table(folder / "groups.csv", ["file", "group"], rows)
    assert report(folder).clean
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
    assert "not checked, no image is here" in found.text()


@pytest.mark.parametrize("name", ["BUSI", "BTMRI", "Kvasir"])
def test_the_other_published_splits_are_clean_as_far_as_their_text_tells(name, shared_data):
    found = check(shared_data / "biomedcoop_splits" / f"split_{name}.json")
    assert found.clean and "valid split" in found.text()


def test_the_page_is_a_picture_with_and_without_images(folder, tmp_path):
    from datasets.split_file import read_split

    split = read_split(folder / "split.json")
    sizes = []
    for base in (folder, None):
        draw(split, base, tmp_path / "page.png", "mine", "a note")
        sizes.append(Image.open(tmp_path / "page.png").size)
    assert sizes[0][0] > sizes[1][0] > 200


def test_exit_codes_are_clean_found_and_bad_call(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("OUTPUT", str(tmp_path / "out"))
    spec = importlib.util.spec_from_file_location("check_dataset", SCRIPT)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    assert script.main(["mine", "--root", str(folder.parent), "--workers", "1"]) == 0
    assert "mine: clean" in capsys.readouterr().out and (tmp_path / "out" / "check" / "mine.png").is_file()
    shutil.copy(folder / "a/train0.png", folder / "a/test0.png")
    assert script.main([str(folder / "split.json"), "--no-picture", "--workers", "1"]) == 1
    assert "FOUND" in capsys.readouterr().out
    bad = subprocess.run([sys.executable, SCRIPT, "nobody", "--root", folder.parent], capture_output=True, text=True,
                         timeout=120)
    assert bad.returncode == 2 and "unknown dataset 'nobody'" in bad.stderr and bad.stderr.count("\n") == 1
