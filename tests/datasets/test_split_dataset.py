"""The reader: shots, classes, groups, notes; names that are folders; what is missing is said in one line."""

import json
import random

import pytest

from cilmp import datasets
from cilmp.datasets.locate import find_split
from cilmp.knowledge import questions_for
from cilmp.tests.datasets import raw_trees
from cilmp.tests.datasets.dataset_cfg import cfg_for
from dassl.utils.errors import ConfigError, MissingFile, UnknownName, UserError


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CILMP_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def root(tmp_path):
    """DATA with the set `knee`: 4 classes, 12 / 6 / 3 images each."""
    names = ("normal", "doubtful", "moderate", "severe")
    rows = {part: [[f"{name}/{part}{i}.png", label, name] for label, name in enumerate(names) for i in range(n)]
            for part, n in (("train", 12), ("val", 6), ("test", 3))}
    folder = tmp_path / "data" / "knee"
    raw_trees.pictures(folder, [file for part in rows.values() for file, *_ in part])
    (folder / "split.json").write_text(json.dumps(rows))
    return tmp_path / "data"


def read(root, name="knee", **how):
    return datasets.resolve(name, root)(cfg_for(name, root, **how))


def keys(items):
    return [(d.impath.split("/")[-2:], d.label, d.classname) for d in items]


def test_base_and_new_come_after_sampling_and_count_from_zero(root):
    whole, base, new = (read(root, shots=4, subset=s) for s in ("all", "base", "new"))
    assert base.classnames == ["normal", "doubtful"] and new.classnames == ["moderate", "severe"]
    halves = keys(base.train_x) + keys(new.train_x)
    assert [file for file, *_ in halves] == [file for file, *_ in keys(whole.train_x)]
    assert {d.label for d in new.test} == {0, 1} and new.lab2cname == {0: "moderate", 1: "severe"}
    assert (len(whole.train_x), len(whole.val), len(whole.test)) == (16, 16, 12)


def test_the_shots_are_those_dassl_draws_and_are_kept_as_json(root, tmp_path):
    split = json.loads((root / "knee" / "split.json").read_text())
    random.seed(3)
    wished = []
    for part, shots in (("train", 8), ("val", 4)):
        for label in range(4):
            wished += [f for f, *_ in random.sample([r for r in split[part] if r[1] == label], shots)]
    data = read(root, shots=8, seed=3)
    assert [d.impath for d in data.train_x + data.val] == [str(root / "knee" / f) for f in wished]
    kept = list((tmp_path / "cache" / "few_shot" / "knee").glob("*/shot_8-seed_3.json"))
    assert len(kept) == 1
    assert [f for rows in json.loads(kept[0].read_text()).values() for f, *_ in rows] == wished
    assert not list(root.rglob("*few*")), "nothing is written under DATA"


def test_a_second_construction_is_the_same_and_draws_nothing_from_the_common_stream(root):
    random.seed(5)
    state = random.getstate()
    first, again = read(root, shots=2), read(root, shots=2)
    assert keys(first.train_x) == keys(again.train_x) and random.getstate() == state
    assert keys(first.train_x) != keys(read(root, shots=2, seed=2).train_x)


def test_no_val_in_the_split_is_no_val_and_never_test(root):
    path = root / "knee" / "split.json"
    content = json.loads(path.read_text())
    del content["val"]
    path.write_text(json.dumps(content))
    data = read(root, shots=4)
    assert not data.val and len(data.test) == 12


def test_natural_shots_keep_classes_that_got_no_image(root):
    path = root / "knee" / "split.json"
    content = json.loads(path.read_text())
    content["train"] = [r for r in content["train"] if r[1] == 0 or r[0].endswith("train0.png")]
    path.write_text(json.dumps(content))  # 12, 1, 1, 1 training images
    data = read(root, shots=1, sampling="natural")
    assert {d.label for d in data.train_x} == {0} and data.num_classes == 4
    assert data.classnames == ["normal", "doubtful", "moderate", "severe"] and not data.val


def test_facts_beside_the_split(root):
    (root / "knee" / "dataset.json").write_text(json.dumps(
        {"modality": "knee X-ray image", "wording": {"normal": "knee without osteoarthritis"}, "note": "trial",
         "lateral": True}))
    raw_trees.table(root / "knee" / "groups.csv", ["file", "patient"], [("normal/test0.png", "p1"), ("x.png", "p2")])
    data = read(root)
    assert (data.modality, data.source_note, data.lateral) == ("knee X-ray image", "trial", True)
    assert data.groups == {str(root / "knee" / "normal/test0.png"): "p1"}
    info = datasets.info("knee", root)
    asked = questions_for(info.classnames, phrases=info.phrases())
    assert asked["normal"] == ("In an image, describe the distinctive visual features of knee without "
                                          "osteoarthritis in a knee X-ray image.")
    clinical = read(root, classnames="clinical")
    assert clinical.classnames[0] == "knee without osteoarthritis" and clinical.knowledge_names[0] == "normal"
    with pytest.raises(ConfigError, match="dataset or clinical"):
        read(root, classnames="long")
    (root / "knee" / "dataset.json").write_text('{"lateral": "yes"}')
    with pytest.raises(UserError, match="'lateral' is 'yes'"):
        read(root)


def test_images_in_the_doubled_folder_or_under_data(root):
    folder = root / "knee"
    (root / "elsewhere").mkdir()
    for name in ("normal", "doubtful", "moderate", "severe"):
        (folder / name).rename(root / "elsewhere" / name)
    with pytest.raises(MissingFile, match=r"84 of 84 image files are not there, first 'normal/train0.png'; looked in"):
        read(root)
    (root / "elsewhere").rename(folder / "knee")
    assert read(root).root_dir == str(folder / "knee")


@pytest.mark.parametrize("name, words", [
    ("kneee", "did you mean 'knee'"), ("BUSY", "did you mean 'BUSI'"), ("../knee", "unknown dataset '../knee'"),
    ("/etc", "unknown dataset '/etc'")])
def test_unknown_names_list_what_there_is(name, words, root):
    with pytest.raises(UnknownName) as error:
        datasets.resolve(name, root)
    assert words in str(error.value) and "cilmp prepare folder" in str(error.value)


def test_a_public_set_that_is_not_here_says_where_it_looked_and_what_to_type(root, tmp_path):
    with pytest.raises(MissingFile) as error:
        read(root, "busi")
    assert f"{root}/busi/busi.json" in str(error.value) and f"{root}/BUSI/split_BUSI.json" in str(error.value)
    assert f"cilmp prepare BUSI --raw DIR --root {root}" in str(error.value)
    with pytest.raises(MissingFile, match="which is not there"):
        read(tmp_path / "nowhere", "busi")
    assert datasets.info("busi", root).classnames == ("normal", "malignant", "benign")


def test_both_names_of_a_set_are_one_reader():
    for one, other in (("KVASIR", "Kvasir"), ("DERMAMNIST", "DermaMNIST"), ("BLOODMNIST", "bloodmnist")):
        assert datasets.TABLE[one] is datasets.TABLE[other]
    assert datasets.canonical("busi") == "BUSI" and datasets.canonical("isic") == "ISIC"
    assert datasets.canonical("mine") == "mine"


def test_phantom_is_drawn_into_the_cache_and_asks_by_modality(tmp_path, monkeypatch):
    from cilmp.datasets import phantom

    monkeypatch.setattr(phantom, "COUNTS", {"train": 2, "val": 1, "test": 1})
    data = read("", "phantom", shots=1)
    assert data.num_classes == 12 and len(data.train_x) == 12
    assert data.root_dir.startswith(str(tmp_path / "cache"))
    assert find_split("phantom")[0].is_file()
    assert "in a chest X-ray" in datasets.info("phantom").phrases()["pneumonia"]


NOTE = "source-confounded, not a clinical result"


@pytest.mark.parametrize("name, sizes, classes, base", [
    ("covid_xray", (135, 42, 93), 3, ["normal", "covid"]),
    ("blood_cells", (180, 54, 126), 3, ["red blood cell", "white blood cell"]),
    ("mixed_six", (315, 96, 219), 6, ["normal chest x-ray", "covid chest x-ray", "red blood cell"])])
def test_the_real_trial_sets(name, sizes, classes, base, shared_data):
    data = read(shared_data, name)
    assert (len(data.train_x), len(data.val), len(data.test)) == sizes and data.num_classes == classes
    assert data.source_note == NOTE == datasets.info(name, shared_data).source_note
    assert read(shared_data, name, subset="base", shots=4).classnames == base


def test_the_note_of_a_trial_set_cannot_be_written_away(root):
    (root / "knee").rename(root / "covid_xray")
    (root / "covid_xray" / "dataset.json").write_text('{"note": "a fine set"}')
    assert datasets.info("covid_xray", root).source_note == f"a fine set {NOTE}"


def test_the_mixed_set_uses_the_groups_of_its_parts(shared_data):
    groups = read(shared_data, "mixed_six").groups
    assert len(groups) == 360 and all("blood_cells" in file for file in groups)
