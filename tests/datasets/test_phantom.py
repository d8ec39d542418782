"""phantom: the same pictures every time, a clean split, two distributions, and a folder that is whole or absent."""

import hashlib
import json
import math
import os

import numpy as np
import pytest
from PIL import Image

from cilmp.datasets import phantom
from dassl.utils.errors import UserError

MEANS = [79.5, 102.9, 103.8, 84.6, 87.5, 69.6, 188.8, 157.2, 176.6, 98.8, 106.6, 160.1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return phantom.ensure(tmp_path_factory.mktemp("cache") / "phantom-v1")


@pytest.fixture
def few(monkeypatch):
    """Two images a class and partition: enough where only files and folders are looked at."""
    monkeypatch.setattr(phantom, "COUNTS", {"train": 2, "val": 1, "test": 1})


def picture(name, seed=5, index=0, nuisance="test"):
    return phantom.draw(name, phantom.generator(seed, name, index), nuisance)


@pytest.mark.parametrize("name", phantom.CLASSES)
def test_one_generator_draws_one_image(name):
    first, again, other = picture(name), picture(name), picture(name, index=1)
    assert first.shape == (64, 64, 3) and first.dtype == np.uint8
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_pictures_are_those_of_the_first_release():
    """Mean grey value of one image a class: a change of the drawing is a new data set and needs a new name."""
    means = [round(float(picture(name).mean()), 1) for name in phantom.CLASSES]
    assert means == pytest.approx(MEANS, abs=0.3)


def test_an_image_does_not_depend_on_what_was_drawn_before():
    alone = picture("melanoma", index=3)
    for index in range(3):
        picture("melanoma", index=index)
    assert np.array_equal(alone, picture("melanoma", index=3))


def test_base_and_new_halves_hold_several_modalities_in_pairs():
    names = sorted(phantom.CLASSES)
    assert list(phantom.CLASSES) == names and len(set(names)) == 12
    half = math.ceil(len(names) / 2)
    for part in (names[:half], names[half:]):
        modalities = [phantom.MODALITIES[n] for n in part]
        assert len(set(modalities)) >= 3
        assert all(modalities.count(m) >= 2 for m in modalities), "every class needs a rival of its own modality"


def test_split_is_a_partition_with_the_promised_counts(folder):
    split = json.loads((folder / "split.json").read_text())
    assert list(split) == ["train", "val", "test"]
    paths = [path for part in split.values() for path, _, _ in part]
    on_disk = {p.relative_to(folder).as_posix() for p in folder.rglob("*.png")}
    assert len(paths) == len(set(paths)) and set(paths) == on_disk
    for part, items in split.items():
        labels = [label for _, label, _ in items]
        assert [labels.count(c) for c in range(12)] == [phantom.COUNTS[part]] * 12
        assert all(phantom.CLASSES[label] == name for _, label, name in items)


def test_no_picture_occurs_twice(folder):
    pixels = [np.asarray(Image.open(path)).tobytes() for path in folder.rglob("*.png")]
    assert len({hashlib.sha256(p).digest() for p in pixels}) == len(pixels) == 12 * 80


def test_files_hold_the_drawn_pixels(folder):
    item = json.loads((folder / "split.json").read_text())["test"][41]
    assert item == ["images/breast_carcinoma/test_001.png", 1, "breast carcinoma"]
    stored = np.asarray(Image.open(folder / item[0]))
    assert np.array_equal(stored, picture("breast carcinoma", seed=phantom.SEEDS["test"], index=1))


def test_the_folder_says_that_it_is_drawn(folder):
    facts = json.loads((folder / "dataset.json").read_text())
    assert "Drawn images" in facts["note"] and facts["modalities"] == phantom.MODALITIES


def test_the_data_set_is_noisier_and_warmer_than_pretraining():
    def corners(nuisance):  # outside the eye there is nothing but nuisance
        return np.stack([picture("glaucoma", 1, i, nuisance) for i in range(40)])[:, :6, :6].astype(float)

    clean, noisy = corners("pretrain"), corners("test")
    assert noisy.std(axis=(1, 2)).mean() > 1.5 * clean.std(axis=(1, 2)).mean()
    assert (noisy[..., 0] - noisy[..., 2]).mean() > (clean[..., 0] - clean[..., 2]).mean() + 20  # grey values of 255


def test_hearts_lean_to_large_in_the_data_set_whatever_the_class():
    def large(nuisance):
        words = [phantom.draw_described("pneumonia", phantom.generator(2, "pneumonia", i), nuisance)[1]
                 for i in range(60)]
        return np.mean(["normal heart size" not in w for w in words])

    assert large("pretrain") < 0.25 and large("test") > 0.5


def test_a_second_call_changes_nothing(tmp_path, few):
    root = phantom.ensure(tmp_path / "set")
    before = {p: p.stat().st_mtime_ns for p in root.rglob("*")}
    assert phantom.ensure(tmp_path / "set") == root
    assert {p: p.stat().st_mtime_ns for p in root.rglob("*")} == before


def test_an_interrupted_call_leaves_nothing(tmp_path, few, monkeypatch):
    drawn, real = [], phantom.draw

    def stops(*args):
        if len(drawn) == 7:
            raise KeyboardInterrupt
        drawn.append(args[0])
        return real(*args)

    monkeypatch.setattr(phantom, "draw", stops)
    with pytest.raises(KeyboardInterrupt):
        phantom.ensure(tmp_path / "set")
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(phantom, "draw", real)
    assert (phantom.ensure(tmp_path / "set") / "split.json").is_file()


def test_two_writers_at_once_end_with_one_whole_folder(tmp_path, few, monkeypatch):
    real = phantom._write

    def slow(folder):  # while this one draws, another process finishes
        real(folder)
        if not (tmp_path / "set").exists():
            other = tmp_path / "other"
            other.mkdir()
            real(other)
            os.rename(other, tmp_path / "set")

    monkeypatch.setattr(phantom, "_write", slow)
    root = phantom.ensure(tmp_path / "set")
    assert len(list(root.rglob("*.png"))) == 12 * 4 and list(tmp_path.iterdir()) == [root]


def test_a_folder_with_other_files_is_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="no split"):
        phantom.ensure(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]
