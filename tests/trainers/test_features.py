"""Features of frozen image tower: computed once, the same results, keyed by what they depend on."""

import numpy as np
import pytest
import torch

from cilmp.experiments.settings import base_config
from cilmp.trainers.features import cached_features
from dassl.engine import build_trainer
from dassl.utils import set_random_seed


def config(folder, method="CoOp", **options):
    """A short demo run without augmentation."""
    cfg = base_config()
    values = {
        "TRAINER.NAME": method, "DATASET.NAME": "phantom", "DATASET.NUM_SHOTS": 2, "MODEL.BACKBONE.NAME": "demo",
        "INPUT.TRANSFORMS": ["normalize"], "OPTIM.NAME": "sgd", "OPTIM.LR": 0.01, "OPTIM.MAX_EPOCH": 3,
        "OPTIM.LR_SCHEDULER": "cosine", "DATALOADER.NUM_WORKERS": 0, "DATALOADER.TRAIN_X.BATCH_SIZE": 8, "SEED": 1,
        "OUTPUT_DIR": str(folder), "TEST.NO_TEST": True, "MODEL.LLM": "smollm2-135m", "THREADS": 1,
        "VERBOSE": False,
    } | options  # fmt: skip
    cfg.merge_from_list([x for pair in values.items() for x in pair])
    return cfg


def run(cfg, count=None):
    """Train; {learned tensors}. count: a list that gets one entry per call of the image tower."""
    set_random_seed(cfg.SEED)
    trainer = build_trainer(cfg)
    if count is not None:
        inner = trainer.clip.image.encode
        trainer.clip.image.encode = lambda images, **kw: count.append(len(images)) or inner(images, **kw)
    trainer.train()
    return trainer, trainer.model.checkpoint_state()


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    import os

    shared = os.environ.get("CILMP_CACHE")
    cache = tmp_path / "cache"
    cache.mkdir()
    if shared and os.path.isdir(f"{shared}/phantom-v1"):
        (cache / "phantom-v1").symlink_to(f"{shared}/phantom-v1")
    monkeypatch.setenv("CILMP_CACHE", str(cache))


def test_one_pass_and_the_same_training(tmp_path):
    with_calls, without_calls = [], []
    _, kept = run(config(tmp_path / "a"), with_calls)
    _, plain = run(config(tmp_path / "b", **{"TRAIN.CACHE_FEATURES": False}), without_calls)
    assert sum(with_calls) == 24 and sum(without_calls) == 3 * 24  # 12 classes x 2 shots, once and in 3 epochs
    assert (kept["ctx"] - plain["ctx"]).abs().max() < 1e-5
    again = []
    _, third = run(config(tmp_path / "c"), again)
    assert again == [] and torch.equal(third["ctx"], kept["ctx"])


def test_augmentation_and_adapted_towers_are_never_cached(tmp_path):
    calls = []
    cfg = config(tmp_path / "a", **{"INPUT.TRANSFORMS": ["random_flip", "normalize"]})
    run(cfg, calls)
    assert sum(calls) == 3 * 24
    calls = []
    run(config(tmp_path / "b", method="CILMP"), calls)
    assert sum(calls) == 3 * 24


def test_another_resolution_or_weight_is_another_file(tmp_path):
    trainer, _ = run(config(tmp_path / "a"))
    from dassl.data.transforms import build_transform

    items = trainer.dm.dataset.train_x
    plain = build_transform(trainer.cfg, is_train=False)
    first = cached_features(trainer, items, plain)
    with torch.no_grad():
        trainer.clip.image.stem.patches.conv.weight.mul_(3)
    trainer.clip._hash = None
    assert (cached_features(trainer, items, plain) - first).abs().max() > 1e-3


def test_images_in_arrays_are_kept_by_their_pixels(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {f"{part}_images": rng.integers(0, 256, (12, 28, 28), np.uint8) for part in ("train", "val", "test")}
    arrays |= {f"{part}_labels": np.arange(12)[:, None] % 2 for part in ("train", "val", "test")}
    np.savez(tmp_path / "breastmnist.npz", **arrays)
    options = {"DATASET.NAME": "breastmnist", "DATASET.ROOT": str(tmp_path)}
    first, again, changed = [], [], []
    run(config(tmp_path / "a", **options), first)
    run(config(tmp_path / "b", **options), again)
    arrays["train_images"][:] = 255 - arrays["train_images"]
    np.savez(tmp_path / "breastmnist.npz", **arrays)
    run(config(tmp_path / "c", **options), changed)
    assert (sum(first), sum(again), sum(changed)) == (4, 0, 4)
