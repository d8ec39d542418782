"""Trees as archives unpack them: parts at any one depth, wrappers, images by content; what fits nowhere is named."""

import os
import shutil
from collections import Counter

import pytest
from PIL import Image

from cilmp import datasets
from cilmp.datasets.prepare import own
from cilmp.datasets.prepare.files import look_under, need_root, need_utf8
from cilmp.datasets.prepare.layout import part_of, read_layout
from cilmp.tests.datasets import raw_trees
from cilmp.tests.datasets.dataset_cfg import cfg_for
from dassl.utils.errors import UserError


def images(*patterns):
    """'train/{cyst,normal}/3' -> six relative paths."""
    paths = []
    for pattern in patterns:
        *folders, count = pattern.split("/")
        ways = [""]
        for folder in folders:
            ways = [f"{way}{name}/" for way in ways for name in folder.strip("{}").split(",")]
        paths += [f"{way}{i}.png" for way in ways for i in range(int(count))]
    return paths


def found(*patterns):
    """{(part, class): images} of a tree."""
    layout = read_layout(images(*patterns))
    return dict(Counter(zip(layout.parts, layout.classes)))


TWO = {("train", "cyst"): 3, ("train", "normal"): 3, ("test", "cyst"): 2, ("test", "normal"): 2}


@pytest.mark.parametrize("patterns", [
    ("train/{cyst,normal}/3", "test/{cyst,normal}/2"),
    ("chest/train/{cyst,normal}/3", "chest/test/{cyst,normal}/2"),
    ("archive/chest/Training_Set/{cyst,normal}/3", "archive/chest/TEST-DATA/{cyst,normal}/2"),
    ("train/train/{cyst,normal}/3", "test/test/{cyst,normal}/2"),
    ("train/images/train/{cyst,normal}/3", "test/images/test/{cyst,normal}/2"),
    ("trainset/images/{cyst,normal}/3", "test set/images/{cyst,normal}/2"),
    ("{cyst,normal}/train/3", "{cyst,normal}/test/2"),
    ("chest/{cyst,normal}/train/3", "chest/{cyst,normal}/test/2")])
def test_parts_are_found_at_one_depth_whatever_is_around_them(patterns):
    assert found(*patterns) == TWO


def test_without_parts_the_first_folder_that_differs_is_the_class():
    alone = {("", "cyst"): 2, ("", "normal"): 2}
    assert found("{cyst,normal}/2") == found("a/b/{cyst,normal}/2") == alone
    assert found("{cyst,normal}/{p1,p2}/1") == alone, "patients below a class"
    assert found("{test,control}/2") == {("", "test"): 2, ("", "control"): 2}, "one folder alone is the class"


@pytest.mark.parametrize("word, part", [
    ("train", "train"), ("TRAINING", "train"), ("train_set", "train"), ("training-data", "train"),
    ("trainset", "train"), ("val", "val"), ("Valid", "val"), ("validation_images", "val"), ("dev", "val"),
    ("Test", "test"), ("testing set", "test"),
    ("trained", ""), ("contest", ""), ("devices", ""), ("testis", ""), ("valve", "")])
def test_words_for_parts(word, part):
    assert part_of(word) == part


@pytest.mark.parametrize("patterns, words", [
    (("train/{a,b}/2", "test/{a,b}/1", "extra/{a,b}/1"), "test looks like a part, but 2 of 8 images lie in none"),
    (("chest/train/{a,b}/2", "chest/1"), "but 1 of 5 images lie in none: chest/0.png"),
    (("train/{a,b}/2", "test/3"), "3 images lie in a part without a class folder: test/0.png; test/1.png; test/2.png"),
    (("train/2", "test/2"), "only parts, no class folders"),
    (("{a,b}/2", "1"), "1 images lie outside the class folders: 0.png"),
    (("{A,B}/train/{x,y}/1", "{A,B}/test/{x,y}/1"), "parts lie below 2 folders (A, B)"),
    (("train/val/{a,b}/1", "test/val/{a,b}/1"), "4 images lie in two parts: test/val/a/0.png")])
def test_what_fits_no_layout_is_named(patterns, words):
    with pytest.raises(UserError) as error:
        read_layout(sorted(images(*patterns)))
    assert words in str(error.value), error.value


def tree(raw, *patterns):
    for i, file in enumerate(images(*patterns)):
        raw_trees.picture(raw / file, i)
    return raw


@pytest.mark.parametrize("patterns, words", [
    (("chest/3",), "one class alone, 'chest' with 3 images"),
    (("chest/{a,b}/2", "chest/1"), "1 images lie directly in it, beside folders: chest/0.png"),
    (("{Covid,covid}/2",), "the class folders 'Covid' and 'covid' differ only in case"),
    (("{a_b,a b}/2",), "differ only in case, blanks, '_' or '-'")])
def test_one_class_and_two_spellings_are_errors_that_name_the_folder(patterns, words, tmp_path):
    with pytest.raises(UserError) as error:
        own.class_folders(tree(tmp_path / "raw", *patterns))
    assert words in str(error.value) and str(tmp_path / "raw") in str(error.value)


def test_a_wrapper_is_told_and_its_official_test_images_stay_test(tmp_path):
    """As zips unpack: chest/train/<class> became the one class 'chest', test images in train, check clean."""
    tree(tmp_path / "raw", "chest/train/{a,b}/10", "chest/test/{a,b}/3")
    raw = own.class_folders(tmp_path / "raw")
    assert raw.classnames == ("a", "b")
    assert raw.remarks == ["all images lie in chest: class folders are those inside it"]
    data = datasets.resolve("ImageFolder")(cfg_for("ImageFolder", tmp_path / "raw"))
    assert len(data.test) == 6 and all("/test/" in datum.impath for datum in data.test)


@pytest.mark.parametrize("folder", ["c", "docs/", "train/c", "val"])
def test_a_class_or_part_without_an_image_is_an_error_that_says_what_it_holds(folder, tmp_path):
    parts = folder[:1] in "tv"
    raw = tree(tmp_path / "raw", *(["train/{a,b}/3", "test/{a,b}/1"] if parts else ["{a,b}/3"]))
    (raw / folder).mkdir()
    (raw / folder / "a.xml").touch()
    (raw / folder / "readme.TXT").touch()
    with pytest.raises(UserError, match=rf"folders without an image: {folder.strip('/')} \(1 .txt, 1 .xml\)"):
        own.class_folders(raw)


def test_images_are_told_by_their_content_and_the_rest_is_counted(tmp_path):
    pydicom = pytest.importorskip("pydicom.data")
    raw = tree(tmp_path / "raw", "{a,b}/3")
    shutil.copy(pydicom.get_testdata_file("CT_small.dcm"), raw / "a" / "IM0001")
    shutil.copy(pydicom.get_testdata_file("CT_small.dcm"), raw / "a" / "1.IMA")
    shutil.copy(pydicom.get_testdata_file("DICOMDIR"), raw / "DICOMDIR")
    (raw / "c").mkdir()
    for name, form in (("x.jfif", "JPEG"), ("x.jpe", "JPEG"), ("x.jp2", "JPEG2000"), ("x.pgm", "PPM"), ("x", "PNG")):
        Image.new("L", (20, 20), 77).save(raw / "c" / name, form)
    for name in ("a/n.txt", "b/n.txt", "a/t.csv", "a/.hidden.png", ".git/x.png", "__MACOSX/a/._0.png", "groups.csv"):
        (raw / name).parent.mkdir(parents=True, exist_ok=True)
        (raw / name).write_text("file,group\na/0.png,p\n" if name == "groups.csv" else "x")
    (raw / "b" / "broken.png").write_bytes(b"no png")
    found = own.class_folders(raw)
    assert Counter(im.classname for im in found.images) == {"a": 5, "b": 4, "c": 5}, "a broken .png is an image, too"
    assert found.remarks == ["left out 2 .txt, 1 .csv, 1 without suffix: not images"]


def test_a_loop_of_links_and_a_link_within_the_tree_add_no_image(tmp_path):
    raw = tree(tmp_path / "raw", "{a,b}/3")
    for where, to in (("a/up", ".."), ("b/above", "../.."), ("b/other", "../a"), ("b/itself", "itself")):
        os.symlink(to, raw / where)
    seen = look_under(raw)
    assert len(seen.images) == 6 and len(seen.links) == 3
    assert "left out 3 links into the same tree, first " + str(raw / "a/up") in seen.remarks()[-1]
    assert len(look_under(raw / "a").images) == 3, "the loop leaves the folder and comes back"


def test_links_to_other_places_are_followed_and_loops_there_end(tmp_path):
    tree(tmp_path / "store", "{a,b}/3")
    os.symlink("../store", tmp_path / "store" / "a" / "again")
    os.symlink(tmp_path / "raw", tmp_path / "store" / "b" / "raw")
    (tmp_path / "raw").mkdir()
    os.symlink(tmp_path / "store", tmp_path / "raw" / "set")
    os.symlink(tmp_path / "store" / "a" / "0.png", tmp_path / "raw" / "one.png")
    assert len(look_under(tmp_path / "raw").images) == 7


def test_pipes_are_passed_over_without_opening_them(tmp_path):
    raw = tree(tmp_path / "raw", "{a,b}/3")
    os.mkfifo(raw / "a" / "pipe.png")
    os.mkfifo(raw / "a" / "pipe")
    seen = look_under(raw)
    assert len(seen.images) == 6 and "left out 2 pipes, sockets or devices" in seen.remarks()[-1]


def test_names_that_no_split_can_hold_are_one_line(tmp_path, monkeypatch):
    raw = tree(tmp_path / "raw", "{a,b}/3")
    with open(os.fsencode(raw / "a") + b"/caf\xe9.png", "wb"):
        pass
    with pytest.raises(UserError, match=r"caf\\udce9.png is not UTF-8; rename it"):
        look_under(raw)
    monkeypatch.setattr("sys.getfilesystemencoding", lambda: "ascii")
    with pytest.raises(UserError, match="takes file names for ascii here; set PYTHONUTF8=1"):
        need_utf8("Gr\udcc3\udcb6\udcc3\udc9fe")


def test_a_folder_too_deep_to_be_listed_is_an_error_not_a_gap(tmp_path):
    raw = tree(tmp_path / "raw", "{a,b}/3")
    here = os.open(raw / "a", os.O_RDONLY)
    try:
        for _ in range(25):
            os.mkdir("d" * 200, dir_fd=here)
            here, above = os.open("d" * 200, os.O_RDONLY, dir_fd=here), here
            os.close(above)
    finally:
        os.close(here)
    with pytest.raises(UserError, match=r"can't be listed \(File name too long"):
        look_under(raw)


def test_a_root_that_is_a_file_or_below_one(tmp_path):
    (tmp_path / "file").touch()
    for root in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UserError, match="file is a file, not a folder"):
            need_root(root)
    need_root(tmp_path / "not yet" / "there")
