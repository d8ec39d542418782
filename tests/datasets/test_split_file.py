"""Split files: what is wrong is said in one line that names the file; the published files parse whole."""

import json
import os
import subprocess
import sys
import tracemalloc

import pytest

from cilmp.datasets.readers import ImageFolder
from cilmp.datasets.split_file import find_base, parse_split, read_split, write_split
from cilmp.tests.datasets import raw_trees
from dassl.utils.errors import MissingFile, UserError
from dassl.utils.paths import REPO

GOOD = {"train": [["a/1.png", 0, "cyst"], ["b/2.png", 1, "stone"]], "val": [["a/3.png", 0, "cyst"]],
        "test": [["a/4.png", 0, "cyst"], ["b/5.png", 1, "stone"]]}


def changed(part, row):
    return {**GOOD, part: [*GOOD[part], row]}


def test_a_good_split_gives_lists_and_names_in_label_order():
    split = parse_split(GOOD)
    assert split.classnames == ("cyst", "stone")
    assert split.train[1] == ("b/2.png", 1, "stone") and len(split.test) == 2


@pytest.mark.parametrize("content, words", [
    ({"train": []}, "not a split file"),
    ([1], "not a split file"),
    ({**GOOD, "train": []}, "'train' is empty"),
    ({**GOOD, "test": []}, "'test' is empty"),
    (changed("train", ["c/9.png", 3, "tumor"]), "label gap, no entry has label 2"),
    (changed("train", ["c/9.png", 1, "cyst"]), "label 1 has two names, 'stone' and 'cyst'"),
    (changed("train", ["c/9.png", 2, "stone"]), "class 'stone' has the labels [1, 2]"),
    (changed("test", ["c/9.png", 2, "tumor"]), "class 'tumor' (label 2) has no training image"),
    (changed("test", ["a/1.png", 0, "cyst"]), "'a/1.png' is in 'train' and in 'test'"),
    (changed("test", ["a/./1.png", 0, "cyst"]), "'a/1.png' is in 'train' and in 'test'"),
    (changed("val", ["a/3.png", 0, "cyst"]), "twice in 'val'"),
    (changed("train", ["/etc/x.png", 0, "cyst"]), "absolute path '/etc/x.png'"),
    (changed("train", ["C:\\x.png", 0, "cyst"]), "absolute path"),
    (changed("train", ["a/../../x.png", 0, "cyst"]), "climbs with '..'"),
    (changed("train", ["a/9.png", "0", "cyst"]), "the label is '0'"),
    (changed("train", ["a/9.png", True, "cyst"]), "the label is True"),
    (changed("train", ["a/9.png", -1, "cyst"]), "the label is -1"),
    (changed("train", ["a/9.png", 10**9, "tumor"]), "label gap, no entry has label 2 though the highest is 1000000000"),
    (changed("train", ["a/9.png", 10**40, "tumor"]), "label gap"),
    (changed("train", ["caf\udce9/9.png", 0, "cyst"]), r"the path 'caf\udce9/9.png' is not UTF-8"),
    (changed("train", ["a/9.png", 0, "caf\udce9"]), r"the class name 'caf\udce9' is not UTF-8"),
    (changed("train", ["a/9\0.png", 0, "cyst"]), "zero byte"),
    (changed("train", ["a/9.png", 0]), "expected [relative path, label, class name]"),
    (changed("train", ["a/9.png", 0, None]), "class name is None"),
])
def test_faults_of_the_text(content, words):
    with pytest.raises(UserError) as error:
        parse_split(content, "here.json")
    assert words in str(error.value) and str(error.value).startswith("here.json")
    assert "\n" not in str(error.value)


def test_no_val_is_fine():
    assert parse_split({k: v for k, v in GOOD.items() if k != "val"}).val == []
    assert parse_split({**GOOD, "val": None}).val == []


def test_broken_json_and_missing_file(tmp_path):
    (tmp_path / "split.json").write_text('{"train": [')
    with pytest.raises(UserError, match="not valid JSON"):
        read_split(tmp_path / "split.json")
    with pytest.raises(MissingFile, match="no such file"):
        read_split(tmp_path / "no.json")


def test_a_huge_label_takes_no_memory():
    tracemalloc.start()
    with pytest.raises(UserError, match="label gap"):
        parse_split(changed("train", ["a/9.png", 10**7, "tumor"]))
    assert tracemalloc.get_traced_memory()[1] < 10**6
    tracemalloc.stop()


@pytest.mark.parametrize("text", [
    "[" * 100000 + "]" * 100000, '{"train": [["a", 1' + "0" * 5000 + ', "b"]]}', "\ufeff"],
    ids=["deep", "long", "mark"])
def test_text_that_no_json_reader_takes(text, tmp_path):
    (tmp_path / "split.json").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match="is not valid JSON") as error:
        read_split(tmp_path / "split.json")
    assert "\n" not in str(error.value) and "split.json" in str(error.value)
    with pytest.raises(UserError, match="can't be read"):
        read_split(tmp_path)


SAYS = """
import sys
from dassl.utils.errors import run_main
from dassl.utils import read_image
from cilmp.datasets.readers import ImageFolder
print(sys.getfilesystemencoding())
run_main(lambda: print(len(ImageFolder.locate("", sys.argv[1]).split.train), "ok"))
"""


@pytest.mark.parametrize("mode", ["ascii", "utf-8"])
def test_names_of_other_alphabets_under_the_c_locale(mode, tmp_path):
    """With UTF-8 mode off Python sees bytes as surrogates: one line, which says what to set; else it works."""
    raw_trees.pictures(tmp_path / "raw", [f"{name}/{i}.png" for name in ("Ödem", "нет") for i in range(10)])
    off = {"LC_ALL": "C", "PYTHONUTF8": "0" if mode == "ascii" else "1", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run([sys.executable, "-c", SAYS, str(tmp_path / "raw")], env={**os.environ, **off},
                          capture_output=True, text=True, cwd=REPO)
    assert done.stdout.split()[0] == mode and "Traceback" not in done.stderr
    if mode == "utf-8":
        assert done.stdout.endswith("14 ok\n")
    else:
        assert done.returncode == 2 and done.stderr.count("\n") == 1 and "PYTHONUTF8=1" in done.stderr


def test_a_latin_1_byte_in_a_file_name_is_one_line(tmp_path):
    for name in ("x", "y"):
        raw_trees.pictures(tmp_path / "raw", [f"{name}/{i}.png" for i in range(5)])
    os.rename(tmp_path / "raw/x/0.png", os.fsencode(tmp_path / "raw/x") + b"/caf\xe9.png")
    with pytest.raises(UserError, match=r"is not UTF-8; rename"):
        ImageFolder.locate("", tmp_path / "raw")


def test_files_are_looked_for_under_each_base_and_links_are_followed(tmp_path):
    real, base = tmp_path / "elsewhere", tmp_path / "set" / "images"
    real.mkdir()
    base.mkdir(parents=True)
    for sub in ("a", "b"):
        (base / sub).symlink_to(real)
    for n in range(1, 6):
        (real / f"{n}.png").touch()
    split = parse_split(GOOD, tmp_path / "set" / "split.json")
    assert find_base(split, [tmp_path / "set", base]) == base
    (real / "4.png").unlink()
    with pytest.raises(MissingFile, match=r"1 of 5 image files are not there, first 'a/4.png'; looked in .* Do this"):
        find_base(split, [tmp_path / "set", base], "Do this.")


def test_written_and_read_again(tmp_path):
    write_split({**GOOD, "val": []}, tmp_path / "split.json")
    again = read_split(tmp_path / "split.json")
    assert [list(row) for row in again.train] == GOOD["train"] and again.val == []
    assert "val" not in json.loads((tmp_path / "split.json").read_text())


PUBLISHED = {
    "BUSI": ((389, 155, 236), {"benign tumor": 437, "malignant tumor": 210, "normal scan": 133}),
    "BTMRI": ((2854, 1141, 1717), {"glioma tumor": 1321, "meningioma tumor": 1339, "pituitary tumor": 1457,
                                   "normal brain": 1595}),
    "Kvasir": ((2000, 800, 1200), dict.fromkeys(("dyed lifted polyps", "dyed resection margins", "esophagitis",
                                                 "normal cecum", "normal pylorus", "normal z line", "polyps",
                                                 "ulcerative colitis"), 500)),
    "RETINA": ((2108, 841, 1268), {"diabetic retinopathy": 1098, "glaucoma": 1007, "cataract": 1038,
                                   "normal retina": 1074}),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_split_files_parse_whole(name, shared_data):
    split = read_split(shared_data / "biomedcoop_splits" / f"split_{name}.json")
    sizes, counts = PUBLISHED[name]
    assert (len(split.train), len(split.val), len(split.test)) == sizes
    assert split.classnames == tuple(counts)
    rows = split.train + split.val + split.test
    assert {c: sum(n == c for _, _, n in rows) for c in counts} == counts
