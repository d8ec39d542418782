"""Every public set: a small raw tree in its true layout becomes a split that its reader gives as images."""

import json
import re
from collections import Counter
from functools import partial

import pytest
from PIL import Image

from cilmp import datasets
from cilmp.datasets.beside import read_groups
from cilmp.datasets.check import check
from cilmp.datasets.partition import leaks
from cilmp.datasets.prepare.by_table import derm7pt_class, odir_classes
from cilmp.datasets.prepare.pneumonia import person
from cilmp.datasets.prepare.run import Options, make
from cilmp.datasets.prepare.table import PREPARERS, prepare
from cilmp.datasets.split_file import read_split
from cilmp.datasets.tables import TABLE
from cilmp.tests.datasets import raw_trees
from cilmp.tests.datasets.dataset_cfg import cfg_for
from dassl.data import DataManager
from dassl.data.datasets import build_dataset
from dassl.utils import read_image
from dassl.utils.errors import MissingFile, UserError

QUIET = Options(workers=1, progress=False)
FILES = sorted(raw_trees.RAW.keys() & set(TABLE.sets()))
ARRAYS = [name for name in TABLE.sets() if TABLE[name].flag]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CILMP_CACHE", str(tmp_path / "cache"))


def prepared(name, tmp_path, make_raw, options=QUIET):
    """(Raw, split file, root) of a set made from a small raw tree."""
    raw, layout = tmp_path / "raw", TABLE[name].layouts[0]
    make_raw(raw)
    path = tmp_path / "data" / layout.folder / layout.split
    found = prepare(name, raw)
    make(found, raw, path, options)
    return found, path, tmp_path / "data"


def test_every_set_of_the_table_has_a_tree_here():
    assert {*FILES, *ARRAYS} == set(TABLE.sets()) == set(PREPARERS)


@pytest.mark.parametrize("name", FILES)
def test_raw_to_split_to_reader_to_image(name, tmp_path):
    raw, path, root = prepared(name, tmp_path, raw_trees.RAW[name])
    split = read_split(path)
    assert split.classnames == TABLE[name].classnames
    assert sum(map(len, split.parts().values())) == len(raw.images)
    assert split.val, "val is made where a set has none"
    manager = DataManager(cfg_for(name, root))
    data = manager.dataset
    assert data.classnames == list(split.classnames)
    assert len(data.train_x) + len(data.val) + len(data.test) == len(raw.images)
    batch = next(iter(manager.test_loader))
    assert batch["img"].shape[1:] == (3, 32, 32) and batch["impath"][0] == data.test[0].impath
    assert data.modality == TABLE[name].modality
    groups = read_groups(path, data.root_dir, split.files())
    if groups:
        parts = [p for p, rows in split.parts().items() for f, *_ in rows if f in groups]
        assert leaks(parts, [groups[f] for rows in split.parts().values() for f, *_ in rows if f in groups]) == {}


EXPECTED = {  # images that count, and whether ids were found
    "ADAM": (15, False), "APTOS": (50, False), "BTMRI": (56, False), "BUSI": (38, False), "CHAOYANG": (64, True),
    "CHMNIST": (160, True), "COVID_19": (40, False), "CPN_X_RAY": (36, False), "CTKidney": (40, False),
    "Derm7pt": (60, True), "FETAL_US": (144, True), "ISIC": (70, True), "KVASIR": (80, False), "KneeXray": (90, True),
    "LungColon": (50, False), "PNEUMONIA2": (108, True), "PNEUMONIA3": (108, True), "RETINA": (100, True)}


@pytest.mark.parametrize("name", EXPECTED)
def test_masks_copies_and_foreign_files_do_not_count(name, tmp_path):
    raw_trees.RAW[name](tmp_path)
    raw = prepare(name, tmp_path)
    assert (len(raw.images), any(im.group for im in raw.images)) == EXPECTED[name]


@pytest.mark.parametrize("name, train, test", [
    ("BTMRI", 40, 16), ("CHAOYANG", 48, 16), ("KneeXray", 30, 30), ("FETAL_US", 96, 48), ("Derm7pt", 20, 20),
    ("PNEUMONIA3", 88, 20)])
def test_official_partitions_stay(name, train, test, tmp_path):
    """Official test images are the test images; what is held out for val comes out of train."""
    raw, path, _ = prepared(name, tmp_path, raw_trees.RAW[name])
    official = Counter(im.part for im in raw.images)
    assert (official["train"], official["test"]) == (train, test)
    split = read_split(path)
    assert len(split.test) == test
    assert len(split.train) + len(split.val) == len(raw.images) - test


def test_aptos_resplit_copy_and_isic_challenge_parts(tmp_path):
    raw_trees.APTOS_resplit(tmp_path / "a")
    assert Counter(im.part for im in prepare("APTOS", tmp_path / "a").images) == {"train": 5, "val": 5, "test": 5}
    raw_trees.ISIC(tmp_path / "i", parts=("Training", "Validation", "Test"))
    assert Counter(im.part for im in prepare("ISIC", tmp_path / "i").images) == {"train": 70, "val": 70, "test": 70}


def test_adam_by_letter_and_ham10000_by_its_table(tmp_path):
    raw_trees.pictures(tmp_path / "a" / "Training400", ["A0001.jpg", "N0001.jpg", "N0002.jpg", "readme.png"])
    assert Counter(im.classname for im in prepare("ADAM", tmp_path / "a").images) == {
        "normal fundus": 2, "fundus with age-related macular degeneration": 1}
    diagnoses = ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")
    rows = [(f"HAM_{i // 2}", f"ISIC_{i:07d}", diagnoses[i % 7]) for i in range(14)]
    raw_trees.table(tmp_path / "h" / "HAM10000_metadata.csv", ["lesion_id", "image_id", "dx"], rows)
    raw_trees.pictures(tmp_path / "h" / "HAM10000_images_part_1", [f"{i}.jpg" for _, i, _ in rows])
    raw = prepare("ISIC", tmp_path / "h")
    assert raw.images[4].classname == "Melanoma" and raw.images[5].group == "HAM_2"


@pytest.mark.parametrize("stored", [False, True])
@pytest.mark.parametrize("name", ["BLOODMNIST", "breastmnist", "organamnist"])
def test_medmnist_arrays_are_read_in_place_and_written_when_asked(name, stored, tmp_path):
    facts = TABLE[name]
    channels = 3 if name == "BLOODMNIST" else 1
    raw_trees.medmnist(tmp_path / "data", facts.flag, len(facts.classes), channels, stored=stored)
    data = datasets.resolve(name, tmp_path / "data")(cfg_for(name, tmp_path / "data"))
    assert (len(data.train_x), len(data.val), len(data.test)) == tuple(n * len(facts.classes) for n in (6, 2, 3))
    image = read_image(data.test[4].impath)
    assert image.mode == "RGB" and image.size == (28, 28)
    assert not list((tmp_path / "data").glob("**/*.png"))
    make_raw = partial(raw_trees.medmnist, flag=facts.flag, classes=len(facts.classes), channels=channels)
    _, _, root = prepared(name, tmp_path, make_raw)
    again = datasets.resolve(name, root)(cfg_for(name, root))
    assert again.train_x[0].impath.endswith(".png") and len(again.train_x) == len(data.train_x)
    files = {d.impath.rsplit("/", 1)[-1]: d for d in again.test}
    assert read_image(files[f"test4_{data.test[4].label}.png"].impath).tobytes() == image.tobytes()
    assert data.lateral == (name == "organamnist")


def test_an_array_set_is_checked_like_any_other(tmp_path, monkeypatch):
    raw_trees.medmnist(tmp_path, "breastmnist", 2, channels=1)
    report = check("breastmnist", tmp_path, workers=1, progress=False)
    assert "images: all 22 decode" in report.text() and "modes NPZ 22" in report.text()
    raw_trees.medmnist(tmp_path, "breastmnist", 2, channels=1, size=64)
    small = datasets.resolve("breastmnist")(cfg_for("breastmnist", tmp_path))
    assert read_image(small.test[0].impath).size == (64, 64), "the smallest that has the input size, 32"


def test_multi_label_arrays_are_refused(tmp_path):
    import numpy as np

    from cilmp.datasets import npz

    np.savez(tmp_path / "chestmnist.npz", train_labels=np.zeros((4, 14), np.uint8))
    with pytest.raises(UserError, match="14 labels an image"):
        npz.labels(tmp_path / "chestmnist.npz", "train")


def test_biomedcoop_layout_is_read_as_it_is(tmp_path):
    """<Dir>/split_<Dir>.json with the images in <Dir>/<Dir>/: the names come from the file, and so does the order."""
    rows = {part: [[f"{folder}/{part} ({i}).png", label, name] for i in range(2)
                   for label, (folder, name) in enumerate((("benign_tumor", "benign tumor"),
                                                           ("malignant_tumor", "malignant tumor"),
                                                           ("normal_scan", "normal scan")))]
            for part in ("train", "val", "test")}
    for part in rows.values():
        raw_trees.pictures(tmp_path / "BUSI" / "BUSI", [f for f, *_ in part])
    (tmp_path / "BUSI" / "split_BUSI.json").write_text(json.dumps(rows))
    data = build_dataset(cfg_for("busi", tmp_path))
    assert data.classnames == ["benign tumor", "malignant tumor", "normal scan"]
    assert data.wording["normal scan"] == "normal breast tissue without a mass"
    assert read_image(data.train_x[0].impath).mode == "RGB"


@pytest.mark.parametrize("name", ["BUSI", "FETAL_US", "ISIC", "PNEUMONIA2", "bloodmnist", "KneeXray"])
def test_an_empty_folder_says_what_was_expected(name, tmp_path):
    with pytest.raises(MissingFile) as error:
        prepare(name, tmp_path)
    assert str(tmp_path) in str(error.value)


def test_derm7pt_diagnoses_and_an_unknown_one():
    assert derm7pt_class("melanoma (in situ) ") == "melanoma" and derm7pt_class("reed or spitz nevus") == "nevus"
    with pytest.raises(UserError, match="unknown diagnosis 'freckle'"):
        derm7pt_class("freckle")


def test_odir_eyes_are_judged_by_their_own_keywords():
    assert odir_classes("normal fundus") == {"normal"}
    assert odir_classes("mild nonproliferative retinopathy，hypertensive retinopathy") == {"diabetes", "hypertension"}
    assert odir_classes("laser spot，moderate non proliferative retinopathy") == {
        "diabetes", "other diseases or abnormalities"}
    assert odir_classes("lens dust，normal fundus") is None
    assert odir_classes("") is None


def test_a_person_with_both_kinds_of_pneumonia_is_one_person():
    assert person("person799_bacteria_2703.jpeg") == person("person799_virus_1431.jpeg") == "person799"
    assert person("NORMAL2-IM-0117-0001.jpeg") == "NORMAL2-IM-0117" != person("IM-0117-0001.jpeg")


def busi_with_copies(raw, seeds, content=None):
    raw_trees.BUSI(raw)
    for i, seed in enumerate(seeds, start=100):
        path = raw / "Dataset_BUSI_with_GT" / "benign" / f"benign ({i}).png"
        raw_trees.picture(path, seed, size=(24 + i % 8, 20 + i % 8))
        if content is not None:
            Image.new("RGB", (24, 20), content).save(path)
    return make(prepare("BUSI", raw), raw, raw.parent / "data" / "busi" / "busi.json", QUIET)


def test_what_was_kept_together_is_what_the_script_says(tmp_path, capsys):
    """It said 'grouped by: nothing' while groups.csv tied 307 files of BUSI."""
    from cilmp.datasets.prepare import command as prepare_dataset

    raw_trees.BUSI(tmp_path / "raw")
    for i in range(3):
        raw_trees.picture(tmp_path / "raw" / "Dataset_BUSI_with_GT" / "benign" / f"benign ({100 + i}).png", 4711)
    call = ["BUSI", "--raw", str(tmp_path / "raw"), "--root", str(tmp_path / "data"), "--workers", "1"]
    prepare_dataset.main(call)
    assert "grouped by: near duplicates, told by their looks; 3 of 41 images, 1 group; no patient ids" in (
        said := capsys.readouterr().out), said
    assert (tmp_path / "data" / "busi" / "groups.csv").read_text().count("\n") == 4
    files = [f"benign ({i}).png" for i in range(1, 21)]
    raw_trees.table(tmp_path / "ids.csv", ["image", "patient"], [(f, f"p{i // 4}") for i, f in enumerate(files)])
    prepare_dataset.main([*call, "--groups", str(tmp_path / "ids.csv")])
    assert "grouped by: ids.csv, column patient; 20 of 41 images have an id, 5 groups" in capsys.readouterr().out


def parts_of_copies(lists):
    return {part for part, rows in lists.items() for file, *_ in rows if re.search(r"\(1\d\d\)", file)}


def test_near_duplicates_of_a_set_without_ids_stay_in_one_part(tmp_path):
    """BUSI has no patient ids: copies of one picture, saved in other sizes, land together."""
    assert len(parts_of_copies(busi_with_copies(tmp_path / "raw", [4711] * 4))) == 1


def test_blank_frames_and_templates_are_no_copies(tmp_path):
    assert len(parts_of_copies(busi_with_copies(tmp_path / "blank" / "raw", [1] * 12, content=(9, 9, 9)))) > 1
    assert len(parts_of_copies(busi_with_copies(tmp_path / "template" / "raw", [4711] * 12))) > 1
