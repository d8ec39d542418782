"""Ids of patients: matched with the images and counted; none that match is an error, some that match is said."""

import json
import re

import pytest

from cilmp import datasets
from cilmp.datasets import beside, groups
from cilmp.datasets.check import check
from cilmp.datasets.prepare import own
from cilmp.datasets.prepare.run import Options, make
from cilmp.tests.datasets import raw_trees
from cilmp.tests.datasets.dataset_cfg import cfg_for
from dassl.utils.errors import MissingFile, UserError

QUIET = Options(workers=1, progress=False)
FILES = [f"{name}/p{i // 2}_{i}.png" for name in "ab" for i in range(20)]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CILMP_CACHE", str(tmp_path / "cache"))
    beside._say.cache_clear()


def patient(file):
    return file[0] + re.search(r"p\d+", file)[0]


def ids(tmp_path, rows, head=("file", "group"), files=FILES):
    raw_trees.table(tmp_path / "t.csv", head, rows)
    return groups.from_table(tmp_path / "t.csv", files)


@pytest.mark.parametrize("written", [
    lambda f: f, lambda f: f"./{f}", lambda f: f"/home/me/raw/{f}", lambda f: f.replace("/", "\\"),
    lambda f: f.removesuffix(".png")])
def test_a_file_is_named_by_its_path_a_longer_path_or_without_its_suffix(written, tmp_path):
    found = ids(tmp_path, [(written(f), patient(f)) for f in FILES])
    assert found.of == {f: patient(f) for f in FILES} and found.key == "t.csv, column group"


def test_a_bare_name_is_enough_where_it_fits_one_image_and_an_error_where_it_fits_several(tmp_path):
    files = [f"train/{f[0]}/{f[0]}{f[3:]}" for f in FILES]
    found = ids(tmp_path, [(f.rsplit("/", 1)[1], "x") for f in files], files=files)
    assert set(found.of) == set(files) and groups.counted(found.of, 40) == "40 of 40 images have an id, 1 group"
    with pytest.raises(UserError, match=r"20 file names fit several images, 'p0_0.png' fits a/p0_0.png and b/p0_0.png"):
        ids(tmp_path, [(f[2:], "x") for f in FILES])


def test_another_folder_is_another_file(tmp_path):
    """c/x.png is not a/x.png, though no other image is called x.png."""
    found = ids(tmp_path, [("c/x.png", "p1"), ("b/y.png", "p2")], files=["a/x.png", "b/y.png"])
    assert found.of == {"b/y.png": "p2"}


@pytest.mark.parametrize("head, columns", [
    (("patient_id", "file"), (1, 0)), (("Patient ID", "age", "File name"), (1, 2, 0)),
    (("age", "subject", "image"), (2, 1, 0)), (("file", "source_image"), (0, 1))])
def test_columns_go_by_their_names(head, columns, tmp_path):
    rows = [[(f, patient(f), "70")[c] for c in columns] for f in FILES]
    assert ids(tmp_path, rows, head).of == {f: patient(f) for f in FILES}


def test_a_table_without_a_header_loses_no_row(tmp_path):
    assert len(ids(tmp_path, [(f, "x") for f in FILES[1:]], (FILES[0], "y")).of) == 40


@pytest.mark.parametrize("head, rows, words", [
    (("file", "group"), [(patient(f), f) for f in FILES], "the columns are swapped, the file comes first"),
    (("file", "group"), [(f"{f}.jpg", "p") for f in FILES], "none of its 40 rows fits one of the 40 images: column"),
    (("file", "group"), [(f, "NaN") for f in FILES], "no row has an id in the column 'group'"),
    (("path", "label"), [(f, "x") for f in FILES], "no column 'group', 'group_id', 'patient_id'"),
    (("file", "age", "sex"), [(f, 1, 2) for f in FILES], "there are: file, age, sex"),
    (("file",), [(f,) for f in FILES], "one column only"),
    (("file", "group"), [(FILES[0], "p1"), (FILES[0], "p2")], "'p1' in line 2 and 'p2' in line 3"),
    (("file", "group"), [("", "p1"), (FILES[0], "p2"), ("", "p1")], "line 2 is ',p1'; line 4 is ',p1'"),
    (("file", "group", "Group"), [(f, 1, 2) for f in FILES], "two columns are called 'group'")])
def test_tables_that_say_nothing_are_errors(head, rows, words, tmp_path):
    with pytest.raises(UserError) as error:
        ids(tmp_path, rows, head)
    assert words in str(error.value) and "t.csv" in str(error.value) and "\n" not in str(error.value)


def test_a_table_that_is_not_there_is_an_error_unless_it_is_the_usual_one(tmp_path):
    with pytest.raises(MissingFile, match="no such table"):
        groups.find(tmp_path, FILES, table=tmp_path / "groups.csv")
    assert groups.find(tmp_path, FILES).of == {}


def raw_folder(tmp_path):
    for name in "ab":
        raw_trees.pictures(tmp_path / "raw" / name, [f.split("/")[1] for f in FILES if f[0] == name])
    return tmp_path / "raw"


def prepared(tmp_path, rows, **how):
    raw_trees.table(tmp_path / "t.csv", ["file", "group"], rows)
    raw = own.class_folders(raw_folder(tmp_path), groups_file=tmp_path / "t.csv", **how)
    return raw, make(raw, tmp_path / "raw", tmp_path / "data" / "mine" / "split.json", QUIET)


def test_preparation_counts_and_warns_of_images_without_id(tmp_path):
    raw, lists = prepared(tmp_path, [(f, patient(f)) for f in FILES])
    assert raw.grouping() == "t.csv, column group; 40 of 40 images have an id, 20 groups" and not list(raw.doubts())
    part_of = {f: part for part, rows in lists.items() for f, *_ in rows}
    assert all(part_of[f"images/{a}"] == part_of[f"images/{b}"] for a, b in zip(FILES[::2], FILES[1::2]))
    raw, _ = prepared(tmp_path, [(f, patient(f)) for f in FILES[6:]])
    assert "34 of 40 images have an id" in raw.grouping()
    assert f"6 of 40 images have no id, first {tmp_path / 'raw/a/p0_0.png'}" in next(raw.doubts())
    record = json.loads((tmp_path / "data/mine/dataset.json").read_text())["preparation"]
    assert record["group_ids"] is True and record["grouped"] == 34
    raw, _ = prepared(tmp_path, [(f, f) for f in FILES])
    assert "every id is on one image" in next(raw.doubts())


def test_the_reader_refuses_a_table_that_fits_nothing_and_says_what_is_partial(tmp_path, capsys):
    prepared(tmp_path, [(f, patient(f)) for f in FILES[6:]])

    def read():
        return datasets.resolve("mine", tmp_path / "data")(cfg_for("mine", tmp_path / "data"))

    capsys.readouterr()
    assert len(read().groups) == 34 and len(read().groups) == 34
    assert capsys.readouterr().out.count("34 of 40 images have an id, 17 groups") == 1, "once, however often it is read"
    raw_trees.table(tmp_path / "data/mine/groups.csv", ["file", "group"], [("x.png", "p1")])
    with pytest.raises(UserError, match="none of its 1 rows fits one of the 40 images"):
        read()


def test_groups_that_tie_look_alikes_are_no_ids(tmp_path, capsys):
    """The line said 'grouped by: nothing' while groups.csv held the clusters; and check took them for patients."""
    folder = raw_folder(tmp_path)
    for name in FILES[:3]:
        raw_trees.picture(folder / name, 4711)
    raw = own.class_folders(folder)
    raw.duplicates = True
    make(raw, folder, tmp_path / "data" / "mine" / "split.json", QUIET)
    assert raw.grouping() == "near duplicates, told by their looks; 3 of 40 images, 1 group; no patient ids: images " \
                             "of one patient may be in several parts"
    assert (tmp_path / "data/mine/groups.csv").read_text().count("\n") == 4
    datasets.resolve("mine", tmp_path / "data")(cfg_for("mine", tmp_path / "data"))
    assert "have an id" not in capsys.readouterr().out
    found = check("mine", tmp_path / "data", workers=1, progress=False)
    assert found.verdict() == "nothing found, but not checked: patients"


@pytest.mark.parametrize("copies, tied", [(10, 10), (11, 0)])
def test_a_cluster_above_ten_is_told_and_not_tied(copies, tied, tmp_path):
    folder = raw_folder(tmp_path)
    for name in FILES[:copies]:
        raw_trees.picture(folder / name, 4711)
    raw = own.class_folders(folder)
    raw.duplicates = True
    make(raw, folder, tmp_path / "data" / "mine" / "split.json", QUIET)
    assert len(raw.grouped()) == tied
    assert raw.warnings == ([] if tied else ["11 images look like one another, too many to be copies, e.g. p0_0.png, "
                                             "p0_1.png, p1_2.png: not kept together, look at them"])


def test_look_alikes_of_two_classes_with_one_file_name_are_two_groups(tmp_path):
    folder = raw_folder(tmp_path)
    for i, name in enumerate("ab"):
        for k in range(2):
            raw_trees.picture(folder / name / f"p0_{k}.png", 100 + i)
    raw = own.class_folders(folder)
    raw.duplicates = True
    make(raw, folder, tmp_path / "data" / "mine" / "split.json", QUIET)
    assert len(set(raw.grouped().values())) == 2


def test_a_groups_table_of_an_earlier_split_goes_one_made_by_hand_is_asked_about(tmp_path):
    prepared(tmp_path, [(f, patient(f)) for f in FILES])
    there = tmp_path / "data" / "mine" / "groups.csv"
    make(own.class_folders(tmp_path / "raw"), tmp_path / "raw", there.with_name("split.json"), QUIET)
    assert not there.exists(), "the new split does not obey it"
    raw_trees.table(there, ["file", "group"], [(f"images/{f}", patient(f)) for f in FILES])
    with pytest.raises(UserError, match=r"groups\.csv was not made here: give it with --groups"):
        make(own.class_folders(tmp_path / "raw"), tmp_path / "raw", there.with_name("split.json"), QUIET)
    raw = own.class_folders(tmp_path / "raw", groups_file=there)
    make(raw, tmp_path / "raw", there.with_name("split.json"), QUIET)
    assert len(raw.grouped()) == 40
