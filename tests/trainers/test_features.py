"""Features of a frozen image tower: computed once, bit-equal results, keyed by what they depend on."""

import json
import multiprocessing
import os
import time

import numpy as np
import pytest
import torch
from PIL import Image

from cilmp import trainers
from cilmp.benchmarks.harness import make_believe
from cilmp.datasets import SplitDataset
from cilmp.experiments.settings import base_config
from cilmp.trainers.feature_store import FeatureStore, digest
from cilmp.trainers.features import MICRO_BATCH
from dassl.data import data_manager
from dassl.data.transforms import build_transform
from dassl.data.transforms.transforms import AVAI_CHOICES
from dassl.engine import build_trainer
from dassl.utils import set_random_seed
from dassl.utils.errors import ConfigError


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
        trainer.clip.image.encode = lambda images, *more, **kw: count.append(len(images)) or inner(images, *more, **kw)
    trainer.train()
    return trainer, trainer.model.checkpoint_state()


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    shared = os.environ.get("CILMP_CACHE")
    cache = tmp_path / "cache"
    cache.mkdir()
    if shared and os.path.isdir(f"{shared}/phantom-v1"):
        (cache / "phantom-v1").symlink_to(f"{shared}/phantom-v1")
    monkeypatch.setenv("CILMP_CACHE", str(cache))


# ---- the same numbers, whoever computes the features

FROZEN = {name: {} for name, method in trainers.methods().items() if method.learner.image_key} | {"BiomedDPT": {}}
FROZEN |= {name: {"N_CTX_VISION": 0} for name in ("CILMP", "IVLP", "PromptSRC")}


@pytest.fixture
def small(tmp_path):
    """Settings that name a set of 2 classes, 4 train, 2 val and 1 test images each, and what an LLM says of it."""
    place = make_believe(tmp_path, ["left lung", "heart"], rows=10, width=16, images=6, side=40)
    path = tmp_path / "noise" / "split.json"
    split = json.loads(path.read_text())
    split["val"] = [row for row in split["train"] if row[0][-5] in "45"]
    split["train"] = [row for row in split["train"] if row not in split["val"]]
    path.write_text(json.dumps(split))
    return place | {
        "INPUT.TRANSFORMS": ["random_resized_crop", "random_flip", "normalize"], "OPTIM.MAX_EPOCH": 2,
        "DATASET.NUM_SHOTS": -1, "DATALOADER.TRAIN_X.BATCH_SIZE": 3, "TEST.NO_TEST": False,
    }  # fmt: skip


def own(method, folder, **options):
    """The method's own node of a run on `small`."""
    node = trainers.methods()[method].defaults
    quick = {"SENTENCES": f"{folder}/sentences.json", "N_PROMPTS": 4, "AUGMENT_EPOCH": 3, "SEARCH_STEP": (3, 3)}
    options = {key: value for key, value in quick.items() if key in node} | options
    return {f"TRAINER.{method.upper()}.{key}": value for key, value in options.items()}


@pytest.mark.parametrize("method", sorted(FROZEN))
def test_kept_made_and_plain_features_give_the_same_bits(method, small, tmp_path, monkeypatch):
    options = small | own(method, tmp_path, **FROZEN[method]) | {"TEST.FINAL_MODEL": "best_val"}
    states, tested, calls = {}, {}, {}
    for name in ("off", "made", "read"):
        if name == "read":
            monkeypatch.setattr(data_manager, "read_image", None)  # nothing may be decoded
        cfg = config(tmp_path / name, method, **options, **{"TRAIN.CACHE_FEATURES": name != "off"})
        calls[name] = []
        if trainers.methods()[method].trains:
            trainer, states[name] = run(cfg, calls[name])
        else:
            trainer = build_trainer(cfg)
            trainer.test()
        with np.load(tmp_path / name / "predictions.npz") as arrays:
            tested[name] = {k: arrays[k].tolist() for k in ("paths", "labels", "probabilities")}
    assert tested["off"] == tested["made"] == tested["read"] and not calls["read"]
    assert len(calls["off"]) >= len(calls["made"])
    assert set(calls["off"]) <= {MICRO_BATCH[trainer.device.type]}  # whole ones
    for name, value in states.get("off", {}).items():
        assert torch.equal(states["made"][name], value) and torch.equal(states["read"][name], value), name


def test_methods_seeds_and_settings_share_what_is_the_same(small, tmp_path):
    def calls(name, method="CoOp", **options):
        count = []
        run(config(tmp_path / name, method, **small | options), count)
        return len(count)

    assert calls("a") == 4  # 8 images in each of 2 epochs, the test, and val for calibration
    assert calls("b", "CLIPAdapter") == calls("c", **{"OPTIM.LR": 0.1}) == calls("d", "CoCoOp") == 0
    assert calls("e", **{"DATALOADER.TRAIN_X.BATCH_SIZE": 4, "DATALOADER.TEST.BATCH_SIZE": 1}) == 0
    assert calls("f", "LinearProbe") == 0 and calls("g", "CoOp", SEED=2) == 2  # its views, not test's images
    assert calls("h", **{"OPTIM.MAX_EPOCH": 3}) == 1
    assert calls("i", "BiomedDPT", **own("BiomedDPT", tmp_path)) == 4  # an image pass of its own


def test_batches_are_those_of_the_image_loader(small, tmp_path):
    """Same order, labels and paths, and the generator that orders training moves alike."""
    trainer = build_trainer(config(tmp_path / "a", **small))
    for features, images in ((trainer.train_loader_x, trainer.dm.train_loader_x), (trainer.test_loader,
                             trainer.dm.test_loader)):  # fmt: skip
        seen = []
        for loader in (features, images):
            torch.manual_seed(3)
            loader.set_epoch(1)
            seen.append(([(b["label"].tolist(), b["impath"], b["index"].tolist()) for b in loader], torch.rand(2)))
        assert seen[0][0] == seen[1][0] and torch.equal(seen[0][1], seen[1][1])
    plain = trainer.clip.image.encode(next(iter(trainer.dm.test_loader))["img"].to(trainer.device))
    assert (trainer.features("test_loader") - plain.cpu()).abs().max() < 1e-5


def test_left_and_right_stay_where_they_mean_something(small, tmp_path, monkeypatch):
    monkeypatch.setattr(SplitDataset, "lateral", property(lambda self: True, lambda self, value: None), raising=False)
    options = small | {"INPUT.TRANSFORMS": ["random_flip", "normalize"]}
    trainer = build_trainer(config(tmp_path / "a", "TipAdapter", **options))
    assert torch.equal(trainer.features("train_loader_x", 0), trainer.features("train_loader_x", 1))
    assert len(build_trainer(config(tmp_path / "b", "CrossModal", **options)).train_features()) == 1  # no mirror images


def test_without_augmentation_an_image_is_seen_once(small, tmp_path):
    plain = small | {"INPUT.TRANSFORMS": ["normalize"], "TEST.NO_TEST": True}
    calls = {"kept": [], "off": [], "again": [], "prompted": []}
    run(config(tmp_path / "a", **plain), calls["kept"])
    run(config(tmp_path / "b", **plain, **{"TRAIN.CACHE_FEATURES": False}), calls["off"])
    run(config(tmp_path / "c", **plain), calls["again"])
    trainer, _ = run(config(tmp_path / "d", "CILMP", **plain), calls["prompted"])  # two epochs in batches of 3
    whole = MICRO_BATCH[trainer.device.type]  # of 8 images
    assert calls == {"kept": [whole], "off": [whole], "again": [], "prompted": [3, 3] * 2}
    assert trainer.train_loader_x is trainer.dm.train_loader_x


# ---- the key

def test_another_weight_split_transform_or_seed_is_another_key(small, tmp_path):
    def keys(method="CoOp", weights=None, **options):
        trainer = build_trainer(config(tmp_path / "a", method, **small | options))
        if weights:
            with torch.no_grad():
                trainer.clip.image.stem.patches.conv.weight.mul_(weights)
        return [getattr(trainer, name).dataset.key for name in ("train_loader_x", "test_loader")]

    first = keys()
    assert keys() == keys("CLIPAdapter") == keys(**{"OPTIM.LR": 0.3, "DATALOADER.TEST.BATCH_SIZE": 3}) == first
    both = [keys(weights=3.0), keys(**{"TRAINER.COOP.PREC": "bf16"}), keys(**{"INPUT.PIXEL_MEAN": [0.1, 0.2, 0.3]}),
            keys(**{"DATALOADER.CACHE_IMAGES": True}), keys("BiomedDPT", **own("BiomedDPT", tmp_path))]  # fmt: skip
    if torch.cuda.is_available():
        assert keys(THREADS=2) == first  # the CPU's threads compute none of it
    else:
        both.append(keys(THREADS=2))
    assert all(train != first[0] and test != first[1] for train, test in both)
    for options in ({"SEED": 2}, {"INPUT.RRCROP_SCALE": (0.3, 1.0)}, {"INPUT.TRANSFORMS": ["normalize", "cutout"]}):
        train, test = keys(**options)
        assert train != first[0] and test == first[1], options
    path = tmp_path / "noise" / "images" / "test_0_0.png"
    Image.open(path).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(path)
    assert [now == then for now, then in zip(keys(), first)] == [True, False]
    path = tmp_path / "noise" / "split.json"
    split = json.loads(path.read_text())
    path.write_text(json.dumps(split | {"train": split["train"][::-1]}))
    assert keys()[0] != first[0]


@pytest.mark.parametrize("choice", AVAI_CHOICES)
def test_every_transform_says_what_it_is(choice):
    """The key of what is kept is made of it: an address in memory would never be found again."""
    cfg = base_config()
    cfg.INPUT.TRANSFORMS = (choice,)
    for is_train in (True, False):
        said = str(build_transform(cfg, is_train))
        assert " at 0x" not in said and said == str(build_transform(cfg, is_train))


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
    assert (len(first), len(again), len(changed)) == (1, 0, 1)


# ---- the store

def store(limit=2**20):
    return FeatureStore(limit)


def test_a_broken_file_is_made_anew(small, tmp_path, capsys):
    trainer = build_trainer(config(tmp_path / "a", **small))
    items = trainer.test_loader.dataset
    first, path = items.of().clone(), store().path(items.key_of(0))
    whole = path.read_bytes()
    for broken in (whole[:-3], b"", b"x" * 40, whole[:-1] + bytes([whole[-1] ^ 1])):
        path.write_bytes(broken)
        items.now = None, None
        assert torch.equal(items.of(), first) and path.read_bytes() == whole
        assert "is broken: its features are computed anew" in capsys.readouterr().out


def test_they_stay_within_their_bound_and_it_is_said(capsys):
    kept, size = store(3000), torch.zeros(250)  # 1000 bytes, and what a file says of itself
    for number, key in enumerate("abc"):
        assert kept.make(key, lambda: size) is size
        if kept.path(key).is_file():
            os.utime(kept.path(key), ns=(number, number))
    assert [k for k in "abc" if kept.path(k).is_file()] == ["b", "c"]
    assert sum(p.stat().st_size for p in kept.folder.iterdir()) <= 3000
    assert "(TRAIN.FEATURES_GIB): removed" in capsys.readouterr().out
    assert kept.make("d", lambda: torch.zeros(1000)) is not None and kept.read("d") is None  # more than all room


def test_what_was_read_last_stays():
    kept = store(3 * 1200)
    for key in "abc":
        kept.make(key, lambda: torch.zeros(250))
        os.utime(kept.path(key), ns=(1, 1))
    kept.read("a")
    kept.make("d", lambda: torch.zeros(250))
    assert kept.read("a") is not None and kept.read("d") is not None and kept.read("b") is None


def test_a_training_that_has_no_room_is_not_kept(small, tmp_path):
    options = small | {"TRAIN.FEATURES_GIB": 8 * 4 * 128 * 1.5 / 2**30}  # of two epochs, one and a half
    trainer, _ = run(config(tmp_path / "a", **options))
    assert trainer.train_loader_x.dataset.key is None and trainer.test_loader.dataset.key
    with pytest.raises(ConfigError, match="give GiB"):
        build_trainer(config(tmp_path / "b", **{"TRAIN.FEATURES_GIB": -1.0}))


def test_without_a_place_they_are_computed_and_it_is_said(small, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(FeatureStore, "complained", False)
    (tmp_path / "cache" / "features").write_text("a file in the folder's place")
    calls = []
    run(config(tmp_path / "a", **small), calls)
    assert len(calls) == 4 and capsys.readouterr().out.count("warning: features are not kept") == 1


def test_processes_share_the_work(small, tmp_path):
    """Of two runs at once each epoch is computed by one; who finds it busy makes a later one meanwhile."""
    cfg = config(tmp_path / "a", **small | {"OPTIM.MAX_EPOCH": 6}, USE_CUDA=False)  # CUDA does not work after a fork
    trainer = build_trainer(cfg)
    items, log = trainer.train_loader_x.dataset, tmp_path / "log"
    compute = items.compute

    def slowly(epoch):
        with open(log, "a") as f:
            f.write(f"{os.getpid()} {epoch}\n")
        time.sleep(0.2)
        return compute(epoch)

    def reader(answers):
        answers.put([digest(items.of(epoch)) for epoch in range(6)])

    items.compute, context = slowly, multiprocessing.get_context("fork")
    answers = context.Queue()
    processes = [context.Process(target=reader, args=(answers,)) for _ in range(2)]
    for process in processes:
        process.start()
    found = [answers.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    made = [line.split() for line in log.read_text().splitlines()]
    assert found[0] == found[1] == [digest(compute(epoch)) for epoch in range(6)]
    assert sorted(epoch for _, epoch in made) == list("012345") and len({pid for pid, _ in made}) == 2
    assert not list(store().folder.glob("*.lock"))
