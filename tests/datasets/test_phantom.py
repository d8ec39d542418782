"""phantom: the same pictures every time, a clean split, two distributions, and a folder that is whole or absent."""

import hashlib
import json
import math
import os

import numpy as np
import pytest
from PIL import Image

from datasets import phantom


MEANS = [102.1, 101.7, 76.2, 105.5, 86.9, 60.2, 176.8, 140.4, 175.3, 128.1, 101.1, 174.0]


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


def test_test_pictures_are_noisier_than_those_for_pretraining():
    def roughness(nuisance):
        images = [picture("glaucoma", 1, i, nuisance).astype(float) for i in range(30)]
        corner = np.stack(images)[:, :6, :6]  # outside the eye: nothing but nuisance
        return corner.std(axis=(1, 2)).mean()

    assert roughness("test") > 2 * roughness("pretrain")


def test_findings_show_less_clearly_in_the_data_set():
    """Melanoma has an irregular border more often than a nevus; in "test" the gap is smaller."""
    def irregular(name, nuisance):
        words = [phantom.draw_described(name, phantom.generator(2, name, i), nuisance)[1] for i in range(60)]
        return np.mean(["irregular border" in w for w in words])

    gaps = {n: irregular("melanoma", n) - irregular("melanocytic nevus", n) for n in ("pretrain", "test")}
    assert gaps["pretrain"] > 0.8 and 0.2 < gaps["test"] < gaps["pretrain"] - 0.1


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
