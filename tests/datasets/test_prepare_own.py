"""Your own folder or table: a split whatever the tree, groups that stay together, formats, restarts, bad files."""

import csv
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from cilmp import datasets
from cilmp.datasets.partition import complete, leaks
from cilmp.datasets.prepare import own
from cilmp.datasets.prepare.run import Options, make, table
from cilmp.datasets.split_file import read_split
from cilmp.tests.datasets import raw_trees
from cilmp.tests.datasets.dataset_cfg import cfg_for
from dassl.utils.errors import MissingFile, UserError

SCRIPT = [sys.executable, Path(__file__).resolve().parents[2] / "cilmp", "prepare"]
QUIET = Options(workers=1, progress=False)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CILMP_CACHE", str(tmp_path / "cache"))


def tree(raw, counts, prefix=""):
    for name, n in counts.items():
        raw_trees.pictures(raw / prefix / name, [f"p{i // 2}_{i}.png" for i in range(n)])
    return raw


def prepared(raw, out, options=QUIET, **how):
    found = own.class_folders(raw, **how)
    return make(found, Path(raw), out / "split.json", options), found


def test_folder_to_split_to_reader(tmp_path):
    lists, raw = prepared(tree(tmp_path / "raw", {"cyst": 20, "kidney_stone": 10}), tmp_path / "data" / "mine")
    assert raw.classnames == ("cyst", "kidney stone")
    assert {p: len(rows) for p, rows in lists.items()} == {"train": 21, "val": 3, "test": 6}
    data = datasets.resolve("mine", tmp_path / "data")(cfg_for("mine", tmp_path / "data", shots=2, subset="base"))
    assert data.classnames == ["cyst"] and len(data.train_x) == 2 and len(data.test) == 4
    assert os.path.islink(data.train_x[0].impath)
    assert "kidney stone" in table(lists, raw.classnames)


def test_given_partitions_stay_and_val_comes_out_of_train(tmp_path):
    raw = tree(tree(tmp_path / "raw", {"a": 20, "b": 20}, "Train"), {"a": 5, "b": 5}, "test")
    lists, _ = prepared(raw, tmp_path / "out")
    assert {p: len(rows) for p, rows in lists.items()} == {"train": 36, "val": 4, "test": 10}
    assert all(file.startswith("images/test/") for file, *_ in lists["test"])
    lists, _ = prepared(tree(raw, {"a": 3, "b": 3}, "valid"), tmp_path / "out2")
    assert {p: len(rows) for p, rows in lists.items()} == {"train": 40, "val": 6, "test": 10}


@pytest.mark.parametrize("how", [{"group_regex": r"(p\d+)_"}, {}])
def test_groups_from_a_pattern_or_a_table_stay_together_and_travel(how, tmp_path):
    raw = tree(tmp_path / "raw", {"a": 30, "b": 30})
    if not how:
        rows = [(f.relative_to(raw).as_posix(), f.name.split("_")[0]) for f in sorted(raw.glob("*/*.png"))]
        raw_trees.table(raw / "groups.csv", ["file", "patient"], rows)
    lists, _ = prepared(raw, tmp_path / "data" / "mine", **how)
    parts = [(p, file.split("/")[-1].split("_")[0]) for p, rows in lists.items() for file, *_ in rows]
    assert leaks([p for p, _ in parts], [g for _, g in parts]) == {}
    data = datasets.resolve("mine", tmp_path / "data")(cfg_for("mine", tmp_path / "data"))
    assert len(data.groups) == 60 and set(data.groups.values()) == {f"p{i}" for i in range(15)}
    assert data.groups[data.test[0].impath] == Path(data.test[0].impath).name.split("_")[0]


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.sampled_from(["a", "b b", "c-c", "ü"]), st.integers(1, 25), min_size=2), st.integers(0, 3))
def test_any_folder_tree_is_partitioned_and_the_seed_decides(tmp_path_factory, counts, seed):
    raw = tmp_path_factory.mktemp("tree")
    for name, n in counts.items():
        (raw / name).mkdir()
        for i in range(n):
            (raw / name / f"{i}.png").touch()
    options = Options(seed=seed, verify=False, workers=1, progress=False)
    try:
        lists, _ = prepared(raw, raw.parent / f"{raw.name}-out", options)
    except UserError as error:  # too few images for a test set
        assert "'test' is empty" in str(error) and "split.json" not in str(error) and max(counts.values()) < 3
        return
    files = [file for rows in lists.values() for file, *_ in rows]
    assert len(files) == len(set(files)) == sum(counts.values())
    for name, n in counts.items():
        for part, share in (("train", 0.7), ("val", 0.1), ("test", 0.2)):
            assert abs(sum(c == name for *_, c in lists[part]) - share * n) < 1 + 1e-6
    assert prepared(raw, raw.parent / f"{raw.name}-again", options)[0] == lists


@settings(max_examples=12, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("xyz"), st.integers(0, 9)), min_size=12, max_size=60))
def test_any_table_is_partitioned_by_its_groups(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("csv")
    lines = [(f"{i}.png", label, f"patient {patient}") for i, (label, patient) in enumerate(rows)]
    for name, *_ in lines:
        (folder / name).touch()
    if len({label for label, _ in rows}) == 1:
        rows[0] = ("w", rows[0][1])
        lines[0] = ("0.png", "w", lines[0][2])
    raw_trees.table(folder / "labels.csv", ["path", "label", "group"], lines)
    found = own.table(folder)
    assert [im.group for im in found.images] == [g for *_, g in lines]
    parts = complete(["" for _ in rows], [r[0] for r in rows], [g for *_, g in lines])
    assert leaks(parts, [g for *_, g in lines]) == {}


def test_tables_with_numbers_names_and_parts(tmp_path):
    lines = [(f"{i}.png", i % 3, ("grade ten", "grade two", "none")[i % 3], ("train", "test")[i % 2])
             for i in range(12)]
    raw_trees.pictures(tmp_path, [name for name, *_ in lines])
    raw_trees.table(tmp_path / "labels.csv", ["Path", "Label", "Name", "Split"], lines, bom=True)
    raw = own.table(tmp_path / "labels.csv")
    assert raw.classnames == ("grade ten", "grade two", "none")
    assert Counter(im.part for im in raw.images) == {"train": 6, "test": 6}
    data = datasets.resolve("CSV")(cfg_for("CSV", tmp_path / "labels.csv"))
    assert data.classnames == list(raw.classnames) and len(data.test) == 6
    (tmp_path / "3.png").unlink()
    with pytest.raises(MissingFile, match="1 of 12 files are not there"):
        own.table(tmp_path / "labels.csv")


def test_imagefolder_needs_no_split_file(tmp_path):
    tree(tmp_path, {"a": 20, "b": 20})
    data = datasets.resolve("ImageFolder")(cfg_for("ImageFolder", tmp_path))
    assert (len(data.train_x), len(data.val), len(data.test)) == (28, 4, 8)
    assert not list(tmp_path.glob("*.json"))
    assert datasets.info("ImageFolder", tmp_path).classnames == ("a", "b")


def test_copies_shrunk_copies_and_links_replace_each_other(tmp_path):
    raw = tree(tmp_path / "raw", {"a": 10, "b": 2})
    big = raw / "a" / "big.tif"
    Image.fromarray(np.arange(90 * 60, dtype=np.uint16).reshape(60, 90) * 12).save(big)
    out = tmp_path / "out"
    for how, is_link, size in (({}, True, (90, 60)), ({"copy": True}, False, None), ({"resize": 16}, False, (24, 16)),
                               ({"resize": 32}, False, (48, 32)), ({"copy": True}, False, None), ({}, True, (90, 60))):
        lists, _ = prepared(raw, out, Options(workers=1, progress=False, **how))
        file = next(out / f for rows in lists.values() for f, *_ in rows if "big" in f)
        assert file.is_symlink() == is_link
        if size:
            assert Image.open(file).size == size
        if how.get("resize"):
            assert file.name == "big.tif.png" and Image.open(file).mode == "RGB"
        small = next(out / f for rows in lists.values() for f, *_ in rows if "p0_0" in f)
        assert Image.open(small).size == ((19, 16) if how.get("resize") == 16 else (24, 20))
    with pytest.raises(UserError, match="own folder"):
        make(own.class_folders(raw), raw, raw / "split.json", Options(resize=8, workers=1, progress=False))


def test_a_raw_folder_that_is_the_data_folder_is_used_in_place(tmp_path):
    tree(tmp_path / "mine", {"a": 10, "b": 10})
    lists, _ = prepared(tmp_path / "mine", tmp_path / "mine")
    assert lists["test"][0][0].startswith("a/") and not (tmp_path / "mine" / "images").exists()
    assert read_split(tmp_path / "mine" / "split.json").classnames == ("a", "b")


def test_a_data_folder_inside_the_raw_folder_would_be_a_class_the_next_time(tmp_path):
    raw = tree(tmp_path / "raw", {"a": 10, "b": 10})
    with pytest.raises(UserError, match=r"lies inside the raw folder .* choose another --root"):
        prepared(raw, raw / "data" / "mine")
    assert not (raw / "data").exists()


def test_unreadable_images_stop_or_are_left_out(tmp_path):
    raw = tree(tmp_path / "raw", {"a": 10, "b": 10})
    (raw / "a" / "broken.png").write_bytes(b"\x89PNG no")
    with pytest.raises(UserError, match=r"1 of 21 images can't be read, first: .*broken.png"):
        prepared(raw, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    lists, found = prepared(raw, tmp_path / "out", Options(on_bad_image="skip", workers=1, progress=False))
    assert sum(map(len, lists.values())) == 20 and "left out 1 unreadable" in found.remarks[0]


def test_what_was_done_is_not_done_again(tmp_path, monkeypatch):
    raw = tree(tmp_path / "raw", {"a": 10, "b": 10})
    prepared(raw, tmp_path / "out")
    from cilmp.datasets import scan

    monkeypatch.setattr(scan, "look", lambda path: pytest.fail(f"{path} was opened again"))
    _, found = prepared(raw, tmp_path / "out")
    assert "0 images placed, 20 were there" in found.remarks
    (tmp_path / "out" / "images" / "a" / "p0_0.png").unlink()
    _, found = prepared(raw, tmp_path / "out")
    assert "1 images placed, 19 were there" in found.remarks


@pytest.mark.parametrize("make_raw, words", [
    (lambda raw: None, "no such folder"),
    (lambda raw: raw.mkdir(), "no images; expected"),
    (lambda raw: raw_trees.pictures(raw, ["x.png"]), "outside the class folders"),
])
def test_a_folder_that_is_none_says_what_is_expected(make_raw, words, tmp_path):
    make_raw(tmp_path / "raw")
    with pytest.raises(UserError, match=words):
        own.class_folders(tmp_path / "raw")


def test_bad_patterns_and_tables(tmp_path):
    tree(tmp_path / "raw", {"a": 2, "b": 2})
    with pytest.raises(UserError, match="not a regular expression"):
        own.class_folders(tmp_path / "raw", group_regex="(")
    (tmp_path / "t.csv").write_text("file,label\na.png,x\n")
    with pytest.raises(UserError, match="no column 'path'; there are: file, label"):
        own.table(tmp_path / "t.csv")
    (tmp_path / "t.csv").write_text("path,label,split\na.png,x,later\n")
    with pytest.raises(UserError, match="line 2: split 'later'"):
        own.table(tmp_path / "t.csv")


def script():
    """cilmp prepare as a module."""
    from cilmp.datasets.prepare import command

    return command


def test_the_script_end_to_end(tmp_path):
    """A path with a blank, a modality, a note; then a call that is wrong."""
    raw = tree(tmp_path / "my raw", {"a": 10, "b": 10})
    done = subprocess.run([*SCRIPT, "folder", "--raw", raw, "--name", "mine", "--root",
                           tmp_path / "my data", "--modality", "knee X-ray", "--note", "trial", "--group-regex",
                           r"(p\d+)_", "--workers", "1"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "grouped by: regular expression '(p\\d+)_' on the path; 20 of 20 images have an id, 5 groups" in done.stdout
    assert "written:" in done.stdout and "warning" not in done.stdout
    assert f"use it:  cilmp run few_shot CILMP mine --data '{tmp_path / 'my data'}'\n" in done.stdout, "from any folder"
    info = datasets.info("mine", tmp_path / "my data")
    assert info.modality == "knee X-ray" and info.source_note == "trial"
    assert info.phrases()["a"] == "a in a knee X-ray"
    record = json.loads((tmp_path / "my data" / "mine" / "dataset.json").read_text())["preparation"]
    assert record["seed"] == 1 and sum(part["a"] for part in record["counts"].values()) == 10
    with open(tmp_path / "my data" / "mine" / "groups.csv", newline="") as f:
        assert len(list(csv.reader(f))) == 21


@pytest.mark.parametrize("args, words", [
    (["folder", "--raw", "raw"], "--name is missing"), (["BUSY"], "did you mean 'BUSI'"),
    (["BUSI"], "--raw is missing"), (["folder", "--raw", "raw", "--name", "busi"], "public set"),
    (["folder", "--raw", "raw", "--name", "../x"], "letters, digits"),
    (["folder", "--raw", "raw", "--name", "x", "--ratios", "0", "10", "90"], "train and test above 0"),
    (["folder", "--raw", "raw", "--name", "x", "--ratios", "nan", "10", "90"], "--ratios nan 10.0 90.0: three shares"),
    (["folder", "--raw", "raw", "--name", "x", "--ratios", "inf", "10", "90"], "three shares"),
    (["folder", "--raw", "raw", "--name", "x", "--groups", "g.csv", "--group-regex", "x"], "one of them"),
    (["folder", "--raw", "raw", "--name", "x", "--groups", "typo.csv"], "no such table: typo.csv"),
    (["folder", "--raw", "raw", "--name", "x", "--group-regex", "patient"], "finds an id in none of the 8 file names"),
    (["folder", "--download"], "--download is for public sets")])
def test_wrong_calls_of_the_script(args, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tree(tmp_path / "raw", {"a": 4, "b": 4})
    with pytest.raises(UserError) as error:
        script().main([*args, "--root", "data"])
    assert words in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "data").exists()


def test_partial_ids_and_left_out_files_are_said(tmp_path, capsys):
    raw = tree(tmp_path / "raw", {"a": 10, "b": 10})
    (raw / "a" / "notes.txt").touch()
    raw_trees.table(tmp_path / "g.csv", ["file", "group"], [(f"a/p{i // 2}_{i}.png", i // 2) for i in range(10)])
    call = ["folder", "--raw", str(raw), "--name", "m", "--root", str(tmp_path / "data"), "--workers", "1"]
    assert script().main([*call, "--groups", str(tmp_path / "g.csv")]) == 0
    said = capsys.readouterr().out
    assert "grouped by: g.csv, column group; 10 of 20 images have an id, 5 groups\n" in said
    assert f"warning: 10 of 20 images have no id, first {raw}/b/p0_0.png; each is taken for a patient" in said
    assert "note: left out 1 .txt: not images\n" in said
    assert script().main(call) == 0 and "grouped by: nothing - no id was given" in capsys.readouterr().out


def test_a_locale_without_letters_is_one_line(tmp_path):
    tree(tmp_path / "raw", {"Größe": 4, "b": 4})
    locale = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run([*SCRIPT, "folder", "--raw", tmp_path / "raw", "--name", "m", "--root",
                           tmp_path / "data"], capture_output=True, text=True, timeout=120, env=locale)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "set PYTHONUTF8=1" in done.stderr


def test_a_set_behind_a_form_says_what_to_click(capsys):
    assert script().main(["CHAOYANG", "--download"]) == 0
    assert "https://bupt-ai-cz.github.io/HSA-NRL/" in (said := capsys.readouterr().out) and "by hand" in said
