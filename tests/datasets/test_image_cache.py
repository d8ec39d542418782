"""The cache of decoded images: the same test pixels, valid by content, one shard more for what is new."""

import json
import os

import numpy as np
import pytest
import torch
from PIL import Image

from cilmp import datasets
from cilmp.datasets import image_cache
from cilmp.datasets.image_cache import CachedDatum
from cilmp.tests.datasets import raw_trees
from dassl.config import get_cfg_default
from dassl.data import DataManager
from dassl.utils import read_image


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CILMP_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def cfg(tmp_path):
    """A set with pictures larger and smaller than the input, wide and high, in several modes."""
    folder, rows = tmp_path / "data" / "mine", {"train": [], "val": [], "test": []}
    sizes = [(90, 60), (60, 90), (48, 48), (33, 200), (20, 24), (24, 70)]
    for part, entries in rows.items():
        for i, size in enumerate(sizes):
            file = f"{'ab'[i % 2]}/{part}{i}.{'jpg' if i % 3 else 'png'}"
            raw_trees.picture(folder / file, 7 * i + len(part), size)
            entries.append([file, i % 2, "ab"[i % 2]])
    Image.fromarray(np.arange(64 * 64, dtype=np.uint16).reshape(64, 64) * 9).save(folder / "a/train0.png")
    (folder / "split.json").write_text(json.dumps(rows))
    cfg = get_cfg_default()
    cfg.DATASET.NAME, cfg.DATASET.ROOT, cfg.SEED = "mine", str(tmp_path / "data"), 1
    cfg.INPUT.SIZE, cfg.INPUT.INTERPOLATION, cfg.INPUT.TRANSFORMS = (32, 32), "bicubic", ("normalize",)
    cfg.DATALOADER.NUM_WORKERS, cfg.VERBOSE = 0, False
    return cfg


def read(cfg, cache):
    cfg.DATALOADER.CACHE_IMAGES = cache
    return datasets.resolve("mine", cfg.DATASET.ROOT)(cfg)


def shards(tmp_path):
    return sorted((tmp_path / "cache" / "images").rglob("*.bin"))


@pytest.mark.parametrize("mode", ["shortest", "squash"])
def test_test_batches_are_bit_equal_with_and_without(cfg, tmp_path, mode):
    cfg.INPUT.RESIZE_MODE, batches = mode, []
    for cache in (False, True):
        cfg.DATALOADER.CACHE_IMAGES = cache
        manager = DataManager(cfg)
        batches.append([b["img"] for b in (*manager.test_loader, *manager.val_loader)])
    assert len(shards(tmp_path)) == 1
    for plain, cached in zip(*batches):
        assert torch.equal(plain, cached)


def test_a_second_run_decodes_nothing(cfg, monkeypatch):
    read(cfg, True)
    monkeypatch.setattr(image_cache, "read_image", lambda path: pytest.fail(f"{path} was decoded again"))
    again = read(cfg, True)
    assert all(isinstance(d, CachedDatum) for d in again.train_x + again.val + again.test)
    assert again.test[0].image().mode == "RGB" and min(again.test[3].image().size) == 32


def test_a_changed_file_is_decoded_anew_a_touched_one_is_not(cfg, tmp_path):
    data = read(cfg, True)
    first, second = data.test[0].impath, data.test[1].impath
    raw_trees.picture(tmp_path / "data/mine/a/test0.png", 999, (40, 40))
    os.utime(second, (1, 1))
    again = read(cfg, True)
    assert len(shards(tmp_path)) == 2
    assert again.test[0].image().tobytes() != data.test[0].image().tobytes() and again.test[0].impath == first
    assert json.loads(shards(tmp_path)[-1].with_suffix(".json").read_text()).keys() | {first} == {first}
    assert again.test[0].image().resize((40, 40)).size == read_image(first).size


def test_a_broken_file_is_left_to_the_loader(cfg, tmp_path):
    (tmp_path / "data/mine/a/test0.png").write_bytes(b"\x89PNG")
    data = read(cfg, True)
    assert not isinstance(data.test[0], CachedDatum) and isinstance(data.test[1], CachedDatum)


def test_a_killed_run_leaves_nothing_that_is_read(cfg, tmp_path, monkeypatch):
    monkeypatch.setattr(image_cache, "write_json", lambda *a, **k: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        read(cfg, True)
    monkeypatch.undo()
    monkeypatch.setenv("CILMP_CACHE", str(tmp_path / "cache"))
    assert isinstance(read(cfg, True).test[0], CachedDatum)
