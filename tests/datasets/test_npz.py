"""MedMNIST's arrays: judged at the door in one line, the same by reader, preparation and check; read in any process."""

import re

import numpy as np
import pytest
import torch
from PIL import Image

from cilmp import datasets
from cilmp.datasets import npz
from cilmp.datasets.check import check
from cilmp.datasets.prepare.table import prepare
from cilmp.datasets.tables import TABLE
from cilmp.tests.datasets import raw_trees
from cilmp.tests.datasets.dataset_cfg import cfg_for
from dassl.data import DataManager
from dassl.utils import read_image
from dassl.utils.arrays import file_of, is_array_image
from dassl.utils.errors import UserError
from dassl.utils.images import image_hash

FLAG = "breastmnist"  # two classes


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CILMP_CACHE", str(tmp_path / "cache"))


def arrays(n=20, size=28):
    """Grey images whose level is their index, labels by turns."""
    made = {}
    for part in npz.PARTS:
        made[f"{part}_images"] = np.broadcast_to(np.arange(n, dtype=np.uint8)[:, None, None], (n, size, size)).copy()
        made[f"{part}_labels"] = (np.arange(n) % 2).astype(np.uint8)[:, None]
    return made


def saved(tmp_path, save=np.savez, **changed):
    save(tmp_path / f"{FLAG}.npz", **{**arrays(), **changed})
    return tmp_path


def built(root):
    return datasets.resolve(FLAG, root)(cfg_for(FLAG, root))


def grey(*shape, dtype=np.uint8):
    return np.zeros(shape, dtype)


def label(value, dtype=float):
    labels = (np.arange(20) % 2).astype(dtype)
    labels[3] = value
    return labels


@pytest.mark.parametrize("changed, words", [
    ({"train_images": np.full((20, 28, 28), 0.5, np.float32)}, "train_images are float32 (20, 28, 28)"),
    ({"val_images": grey(20, 28, 28, dtype=np.uint16)}, "val_images are uint16"),
    ({"test_images": grey(20, 28, 28, dtype=np.int64)}, "test_images are int64"),
    ({"train_images": grey(20, 784)}, "train_images are uint8 (20, 784)"),
    ({"train_images": grey(20, 1, 784)}, "train_images are uint8 (20, 1, 784)"),
    ({"train_images": grey(20, 3, 28, 28)}, "channels first"),
    ({"train_images": grey(20, 28, 28, 4)}, "train_images are uint8 (20, 28, 28, 4)"),
    ({"train_images": grey(20, 28, 28, 28)}, "train_images are uint8 (20, 28, 28, 28)"),
    ({"train_labels": label(0)[:19]}, "20 train_images, but 19 train_labels"),
    ({"train_images": grey(19, 28, 28)}, "19 train_images, but 20 train_labels"),
    ({"test_labels": label(0.5)}, "label 0.5 at test/3 (1 such); labels are whole numbers from 0"),
    ({"train_labels": label(-1, int)}, "label -1 at train/3"),
    ({"train_labels": label(np.nan)}, "label nan at train/3"),
    ({"train_labels": label(1e30)}, "label 1e+30 at train/3"),
    ({"train_labels": label(2, int)}, "label 2 in train, but the set has 2 classes"),
    ({"train_labels": np.array(["a", "b"] * 10)}, "train_labels are <U1"),
    ({"train_labels": np.array([0, "b"] * 10, object)}, "pickled objects"),
    ({"train_labels": np.zeros(20, int)}, "class 'normal, benign' has no training image"),
    ({"test_images": grey(0, 28, 28), "test_labels": grey(0, 1)}, "no test_images")])
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_reader_preparation_and_check_say_the_same(changed, words, save, tmp_path):
    root = saved(tmp_path, save, **changed)
    report = check(FLAG, root, progress=False)
    said = list(report.findings)
    for ask in (built, lambda root: prepare(FLAG, root)):
        with pytest.raises(UserError) as error:
            ask(root)
        said.append(str(error.value))
    assert len(set(said)) == 1 and "\n" not in said[0] and not report.clean
    assert words in said[0] and f"{FLAG}.npz" in said[0]


def test_whole_floats_and_bare_columns_are_labels(tmp_path):
    root = saved(tmp_path, train_labels=label(1.0), train_images=grey(20, 28, 28, 1))
    data = built(root)
    assert [d.label for d in data.train_x[:4]] == [0, 1, 0, 1]
    assert read_image(data.train_x[0].impath).size == (28, 28)


def test_another_number_of_images_than_published_is_said(tmp_path):
    root = saved(tmp_path)
    words = "not MedMNIST's number of images: train 20 (published 546), val 20 (published 78), test 20 (published 156)"
    assert words in built(root).source_note
    assert words in prepare(FLAG, root).remarks[0]
    facts = TABLE[FLAG]
    assert npz.published(facts, {p: [0] * n for p, n in zip(npz.PARTS, facts.parts)}) == ""
    assert npz.published(TABLE["BUSI"], {}) == ""


def test_the_published_numbers_are_those_of_the_package_and_of_the_page():
    info = pytest.importorskip("medmnist").INFO
    for facts in {f.name: f for f in TABLE.values() if f.flag}.values():
        assert facts.parts == tuple(info[facts.flag]["n_samples"][part] for part in npz.PARTS)
        assert facts.partition == "MedMNIST's {:,} / {:,} / {:,}".format(*facts.parts)


@pytest.mark.parametrize("method", ["spawn", "forkserver", "fork"])
def test_workers_of_every_kind_read_arrays(method, tmp_path):
    data = saved(tmp_path)
    cfg = cfg_for(FLAG, data)
    cfg.DATALOADER.NUM_WORKERS, cfg.INPUT.TRANSFORMS = 1, ("normalize",)
    torch.multiprocessing.get_context(method)
    before = DataManager(cfg).test_loader
    loader = torch.utils.data.DataLoader(before.dataset, batch_size=20, num_workers=1, multiprocessing_context=method)
    (batch,) = loader
    assert "error" not in batch and batch["img"].shape == (20, 3, 32, 32)
    assert torch.equal(batch["img"], next(iter(before))["img"][:20])


def test_the_hash_of_an_image_in_an_array_is_that_of_its_pixels(tmp_path):
    path = saved(tmp_path) / f"{FLAG}.npz"
    name = f"{path}::train/7"
    assert np.asarray(read_image(name)).max() == np.asarray(read_image(name)).min() == 7
    assert image_hash(name) == image_hash(f"{path}::test/7") != image_hash(f"{path}::train/8")
    images = arrays()["train_images"]
    images[7] = 99
    saved(tmp_path, train_images=images)
    assert image_hash(name) != image_hash(f"{path}::test/7") and np.asarray(read_image(name)).max() == 99


def test_only_the_name_of_an_array_image_is_special(tmp_path):
    for name in ("a::b.jpg", "x.npz::odd", "x.npz::train/one.png"):
        assert not is_array_image(name) and file_of(name) == name
    Image.fromarray(grey(8, 8) + 9).save(tmp_path / "a::b.png")
    assert np.asarray(read_image(str(tmp_path / "a::b.png"))).max() == 9
    with pytest.raises(UserError, match=re.escape("the array has 20 images")):
        read_image(f"{saved(tmp_path)}/{FLAG}.npz::train/20")


def test_a_folder_with_odd_names_is_a_data_set(tmp_path):
    raw_trees.pictures(tmp_path / "odd", [f"{c}/a::{i}.png" for c in "xy" for i in range(10)])
    data = datasets.resolve("ImageFolder")(cfg_for("ImageFolder", tmp_path / "odd"))
    assert len(data.train_x) == 14
    raw_trees.pictures(tmp_path / "set", [f"{c}/a::{i}.png" for c in "xy" for i in range(3)])
    rows = {part: [[f"{c}/a::{i}.png", label, c] for label, c in enumerate("xy")]
            for i, part in enumerate(npz.PARTS)}
    from cilmp.datasets.split_file import write_split

    write_split(rows, tmp_path / "set" / "split.json")
    data = datasets.resolve("set", tmp_path)(cfg_for("set", tmp_path))
    assert data.test[0].impath.endswith("a::2.png") and read_image(data.test[0].impath)
