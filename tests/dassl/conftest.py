"""A few 16-pixel images with a split, and configurations of the upstream-style plugin on them."""

import json

import numpy as np
import pytest
from PIL import Image
from yacs.config import CfgNode


@pytest.fixture(scope="session")
def pets(tmp_path_factory):
    """DATA folder with a set `pets`: 3 classes that differ in colour; 8 train, 3 val, 4 test images each."""
    root, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    split = {"train": [], "val": [], "test": []}
    for label, (name, colour) in enumerate({"cat": (200, 60, 60), "dog": (60, 200, 60), "owl": (60, 60, 200)}.items()):
        for part, count in (("train", 8), ("val", 3), ("test", 4)):
            for i in range(count):
                path = f"{name}_{part}_{i}.png"
                pixels = np.clip(np.array(colour) + rng.normal(0, 40, (20, 20, 3)), 0, 255).astype(np.uint8)
                (root / "pets" / "images").mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(root / "pets" / "images" / path)
                split[part].append([path, label, name])
    (root / "pets" / "split.json").write_text(json.dumps(split))
    return root


@pytest.fixture
def make_cfg(pets, tmp_path):
    """make_cfg(KEY=value with __ for dots, ...) -> frozen config of the plugin in a fresh output folder."""
    from cilmp.tests.dassl import upstream_plugin  # noqa: F401 - registers
    from dassl.config import get_cfg_default, set_key

    def make(output="run", **changes):
        cfg = get_cfg_default()
        cfg.TRAINER.PLUGINCOOP = CfgNode({"PREC": "fp32"})
        values = {
            "TRAINER.NAME": "PluginCoOp", "DATASET.NAME": "PluginPets", "DATASET.ROOT": str(pets), "SEED": 1,
            "OUTPUT_DIR": str(tmp_path / output), "INPUT.SIZE": (16, 16),
            "INPUT.TRANSFORMS": ("random_flip", "normalize"),
            "DATALOADER.NUM_WORKERS": 0, "DATALOADER.TRAIN_X.BATCH_SIZE": 8, "OPTIM.NAME": "sgd", "OPTIM.LR": 0.5,
            "OPTIM.MAX_EPOCH": 4, "OPTIM.LR_SCHEDULER": "cosine", "OPTIM.WARMUP_EPOCH": 1,
            "OPTIM.WARMUP_TYPE": "constant", "TRAIN.PRINT_FREQ": 1, "VERBOSE": False,
        }  # fmt: skip
        values |= {k.replace("__", "."): v for k, v in changes.items()}
        for key, value in values.items():
            set_key(cfg, key, value, "test")
        cfg.freeze()
        return cfg

    return make
