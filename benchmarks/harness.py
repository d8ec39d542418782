"""One training step of any method through the harness itself: its trainer, its config, random weights at real size."""

import json
import os
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

from cilmp.experiments.settings import base_config, method_files
from dassl.engine import build_trainer
from dassl.utils import set_random_seed


def make_believe(folder, names, rows, width, images=4, side=224, tests=1):
    """A data set of noise, rows and sentences on its classes; {config key: value} to find them.

    Args:
        images, tests: of a class, to train and to test on. side: pixels.
    """
    folder, noise = Path(folder), np.random.default_rng(0)
    (folder / "noise" / "images").mkdir(parents=True)
    split = {"train": [], "val": [], "test": []}
    for label, name in enumerate(names):
        for part, count in (("train", images), ("test", tests)):
            for i in range(count):
                path = f"images/{part}_{label}_{i}.png"
                Image.fromarray(noise.integers(0, 255, (side, side, 3), dtype=np.uint8)).save(folder / "noise" / path)
                split[part].append([path, label, name])
    (folder / "noise" / "split.json").write_text(json.dumps(split))
    drawn = torch.Generator().manual_seed(0)
    said = {name: torch.randn(rows, width, generator=drawn) for name in names}
    save_file(said, str(folder / "rows.safetensors"))
    sentences = {name: [f"in picture {i} one sees {name} at its rim" for i in range(50)] for name in names}
    (folder / "sentences.json").write_text(json.dumps(sentences))
    return {"DATASET.NAME": "noise", "DATASET.ROOT": str(folder), "MODEL.LLM": str(folder / "rows.safetensors")}


class HarnessStep:
    """fast(): one forward_backward of the method on B images and C classes; a method without steps: its whole fit."""

    def __init__(self, method, B, C, names, rows, width, device="cpu", train=True, precision="fp32"):
        self.folder = tempfile.TemporaryDirectory()
        cfg = base_config()
        for path in method_files(method, "base2new", "ViT-B/16")[0]:
            cfg.merge_from_file(str(path))
        values = make_believe(self.folder.name, names(C), rows, width) | {
            "TRAINER.NAME": method, "MODEL.BACKBONE.NAME": "ViT-B/16", "MODEL.BACKBONE.WEIGHTS": "random", "SEED": 1,
            "DATALOADER.TRAIN_X.BATCH_SIZE": B, "DATALOADER.NUM_WORKERS": 0, "VERBOSE": False,
            "OUTPUT_DIR": f"{self.folder.name}/out", f"TRAINER.{method.upper()}.PREC": precision,
            "TEST.NO_TEST": True, "USE_CUDA": device == "cuda", "TRAIN.CACHE_FEATURES": False,
        }  # fmt: skip
        if "SENTENCES" in cfg.TRAINER[method.upper()]:
            values[f"TRAINER.{method.upper()}.SENTENCES"] = f"{self.folder.name}/sentences.json"
        cfg.merge_from_list([x for pair in values.items() for x in pair])
        set_random_seed(1)
        self.trainer = build_trainer(cfg)
        self.trainer.set_model_mode("train")
        self.batch = next(iter(self.trainer.dm.train_loader_x))  # images, not their features
        self.steps = self.trainer.optim is not None
        self.trainer.epoch = self.trainer.batch_idx = 0

    def fast(self):
        if self.steps:
            return self.trainer.forward_backward(self.batch)
        if self.trainer.trains:
            self.trainer.train_loader_x.dataset.now = None, None  # no features of the fit before this one
            return self.trainer.run_epoch()
        with torch.no_grad():
            return self.trainer.model(self.batch["img"].to(self.trainer.device))

    def plain_bytes(self):
        return float("inf")  # a whole step of the harness has no plain form


class LoaderPass:
    """One pass over training images of 1000 x 1000 pixels: fast() with the image cache, plain() without.

    workers: processes that decode. Seconds are of the whole pass over `images` images, augmentation included.
    """

    train, B = False, 1

    def __init__(self, workers, images, names, device="cpu", train=False):
        self.folder = tempfile.TemporaryDirectory()
        place = make_believe(self.folder.name, names(8), 1, 1, images // 8, side=1000)
        os.environ["CILMP_CACHE"] = f"{self.folder.name}/cache"
        self.loaders = {cached: self._loader(place, workers, cached) for cached in (True, False)}

    @staticmethod
    def _loader(place, workers, cached):
        from dassl.data import DataManager

        cfg = base_config()
        values = {key: value for key, value in place.items() if key.startswith("DATASET")} | {
            "INPUT.TRANSFORMS": ["random_resized_crop", "random_flip", "normalize"], "DATALOADER.CACHE_IMAGES": cached,
            "DATALOADER.NUM_WORKERS": workers, "VERBOSE": False, "SEED": 1,
        }  # fmt: skip
        cfg.merge_from_list([x for pair in values.items() for x in pair])
        return DataManager(cfg).train_loader_x

    def fast(self):
        return sum(len(batch["img"]) for batch in self.loaders[True])

    def plain(self):
        return sum(len(batch["img"]) for batch in self.loaders[False])

    def plain_bytes(self):
        return 0
