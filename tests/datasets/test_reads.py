"""What a run reads is known beforehand, from lists alone, and says the same as the reader that is built."""

import json
from pathlib import Path

import pytest

from cilmp import datasets
from cilmp.datasets import located
from cilmp.tests.datasets import raw_trees
from cilmp.tests.datasets.dataset_cfg import cfg_for
from dassl.data.datasets import DATASET_REGISTRY
from dassl.data.hashing import split_hashes


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CILMP_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "data" / "knee"
    rows = {part: [[f"{name}/{part}{i}.png", label, name] for label, name in enumerate(("normal", "severe"))
                   for i in range(10)] for part in ("train", "val", "test")}
    raw_trees.pictures(folder, [file for part in rows.values() for file, *_ in part])
    (folder / "split.json").write_text(json.dumps(rows))
    return tmp_path / "data"


def built(name, root, **how):
    return datasets.resolve(name, root)(cfg_for(name, root, **how))


def change_split(root):
    path = root / "knee" / "split.json"
    rows = json.loads(path.read_text())
    rows["train"], rows["test"] = rows["test"], rows["train"]
    path.write_text(json.dumps(rows))


def test_the_same_before_and_after_whatever_is_drawn(root, monkeypatch):
    monkeypatch.setattr("dassl.utils.images.Image.open", lambda *a, **k: pytest.fail("an image was opened"))
    before = datasets.reads("knee", root)
    assert set(before) == {"split", "groups"} and all(len(v) == 64 for v in before.values())
    for how in ({}, {"shots": 1}, {"shots": 2, "seed": 3, "subset": "new"}, {"classnames": "clinical"}):
        assert built("knee", root, **how).reads() == before
    assert split_hashes(built("knee", root))["split_sha256"] == before["split"]


def test_split_and_groups_are_told_apart(root):
    before = datasets.reads("knee", root)
    raw_trees.table(root / "knee" / "groups.csv", ["file", "group"], [("normal/test0.png", "p1")])
    grouped = datasets.reads("knee", root)
    assert grouped["split"] == before["split"] and grouped["groups"] != before["groups"]
    change_split(root)
    changed = datasets.reads("knee", root)
    assert changed["split"] != before["split"] and changed["groups"] == grouped["groups"]
    assert built("knee", root).reads() == changed


def test_class_folders_and_tables_are_known_by_what_is_in_them(root, tmp_path):
    other = tmp_path / "other"
    raw_trees.pictures(other, [f"{name}/{i}.png" for name in ("normal", "severe") for i in range(10)])
    assert datasets.reads("ImageFolder", root / "knee") != datasets.reads("ImageFolder", other)
    assert built("ImageFolder", other).reads() == datasets.reads("ImageFolder", other)
    raw_trees.table(other / "labels.csv", ["path", "label"],
                    [(f"{name}/{i}.png", name) for name in ("normal", "severe") for i in range(10)])
    data = built("CSV", other / "labels.csv")
    assert data.reads() == datasets.reads("CSV", other / "labels.csv")
    assert data.root_dir == str(other) and all(Path(d.impath).is_absolute() for d in data.train_x)


def test_an_array_set_is_known_by_the_size_it_is_read_in(tmp_path):
    for size in (28, 64):
        raw_trees.medmnist(tmp_path, "breastmnist", 2, channels=1, size=size)
    assert built("breastmnist", tmp_path).reads() == datasets.reads("breastmnist", tmp_path, 32)
    assert datasets.reads("breastmnist", tmp_path, 28) != datasets.reads("breastmnist", tmp_path, 32)


def test_a_set_is_looked_for_once(root, monkeypatch):
    calls, read_split = [], located.locate.read_split
    monkeypatch.setattr(located.locate, "read_split", lambda path: calls.append(path) or read_split(path))
    built("knee", root, shots=1)
    assert len(calls) == 1


def test_a_plugins_reader_without_it_reads_nothing_we_know_of(monkeypatch):
    monkeypatch.setitem(DATASET_REGISTRY._objects, "Plain", type("Plain", (), {}))
    assert datasets.reads("Plain") == {}
