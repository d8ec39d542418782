"""A checkout tried both ways: its own train.py on our dassl, and as a plugin of our harness."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from cilmp.experiments.checkout import Checkout
from cilmp.tests.upstream.layouts import language_rows, lay_out
from dassl.utils.paths import REPO

HERE = Path(__file__).parent
NO_GPU = """
import torch

if not torch.cuda.is_available():  # some of theirs call .cuda() whatever there is
    torch.Tensor.cuda = torch.nn.Module.cuda = lambda self, *args, **kwargs: self
"""
HALF = ("MAPLE", "PROMPTSRC")  # nodes of MaPLe, PromptSRC and official CILMP
LEFT_OUT = shutil.ignore_patterns(".git", "__pycache__", "assets", "docs", "*.png", "*.jpg")


class Trial:
    """A copy of a checkout, the weights and data it needs, and its outcomes."""

    def __init__(self, checkout, place, weights):
        self.root, self.place, self.weights = place / checkout.name, place, place / "weights.pt"
        shutil.copytree(checkout, self.root, ignore=LEFT_OUT)
        _random_weights(weights, self.weights)
        for way in ("own", "plugin"):
            language_rows(self.root, lay_out(self.root, place / f"data_{way}"))
        (place / "site").mkdir()
        (place / "site" / "sitecustomize.py").write_text(NO_GPU)
        (place / "site" / "dassl").symlink_to(REPO / "dassl")
        self.env = {k: v for k, v in os.environ.items() if k not in ("DATA", "SHOTS", "METHODS", "PLUGIN", "OPTS")}
        self.env |= {"PYTHONPATH": str(place / "site"), "HF_HUB_OFFLINE": "1", "OUTPUT": str(place / "out"),
                     "CILMP_CACHE": str(place / "cache")}  # fmt: skip
        self.checkout = Checkout(self.root)
        self.facts = self.checkout.ask("describe", entries=[""])
        self.checkout.entries = [""]
        readers = self.facts["readers"]
        self.dataset = next((name for name in ("OxfordPets", "BUSI", *readers) if name in readers), "")

    def named(self, kind, own):
        """How our tables call one of its trainers or readers."""
        from cilmp import datasets, trainers  # noqa: F401 - registers ours
        from dassl.data.datasets import DATASET_REGISTRY
        from dassl.engine import TRAINER_REGISTRY

        taken = own in {"trainers": TRAINER_REGISTRY, "readers": DATASET_REGISTRY}[kind]
        return f"{self.root.name}.{own}" if taken else own

    @property
    def options(self):
        """Small images, one thread of loading, float32 but where their code casts to half whatever PREC says."""
        keys = [key for key in self.facts["config"] if key.endswith(".PREC") and key.split(".")[1] not in HALF]
        precisions = [word for key in keys for word in (key, "fp32")]
        small = ["INPUT.SIZE", "(48,48)", "DATALOADER.TRAIN_X.BATCH_SIZE", "2", "DATALOADER.NUM_WORKERS", "0"]
        losses = [key for key in ("LOSS.NAME", "TRAINER.PROGRAD.NAME") if key in self.facts["config"]]  # ProGrad's
        return [*small, *precisions, *(word for key in losses for word in (key, "prograd"))]

    def call(self, words, cwd, **environ):
        env = self.env | {k: str(v) for k, v in environ.items()}
        done = subprocess.run([sys.executable, *map(str, words)], cwd=cwd, env=env, capture_output=True, text=True,
                              timeout=1800)  # fmt: skip
        return done.stdout + "\n" + done.stderr

    def own_trainers(self):
        """Its train.py: {name: accuracy, or the words of its failure}."""
        words = [HERE / "theirs.py", self.weights, self.place / "own", ",".join(self.facts["trainers"]), "--root",
                 self.place / "data_own", "--seed", 1, "--config-file", REPO / "configs" / "trainers" / "default.yaml",
                 "DATASET.NAME", self.dataset, "DATASET.NUM_SHOTS", 1, "OPTIM.MAX_EPOCH", 1, "MODEL.BACKBONE.NAME",
                 "ViT-B/16", *self.options]  # fmt: skip
        self.said = self.call(words, self.root)
        found = re.findall(r"^===(\S+): (?:accuracy ([\d.]+)|(.*))", self.said, re.M)
        return {name: float(accuracy) if accuracy else failure for name, accuracy, failure in found}

    def plugin_trainers(self):
        """All of its trainers in one table of ours: {name: accuracy, or the words of its failure}."""
        named = {self.named("trainers", own): own for own in self.facts["trainers"]}
        words = [REPO / "cilmp", "run", "few_shot", next(iter(named)), self.named("readers", self.dataset), 1]
        environ = {"METHODS": " ".join(named), "PLUGIN": self.root, "DATA": self.place / "data_plugin", "SHOTS": 1,
                   "EPOCHS": 1, "BACKBONE": "ViT-B/16", "WEIGHTS": self.weights,
                   "OPTS": " ".join(self.options)}  # fmt: skip
        self.said = self.call(words, self.place, **environ)
        found = {}
        for line in self.said.splitlines():
            if m := re.match(r"\[\d+/\d+\] (.+?), 1 shot, .*?: (?:accuracy ([\d.]+)|failed - (.*))", line):
                found[named[m[1]]] = float(m[2]) if m[2] else m[3]
        return found

    def own_readers(self):
        said = self.call([HERE / "their_readers.py", self.place / "data_own"], self.root)
        lines = [line for line in said.split("\n") if line.startswith('{"')]
        return json.loads(lines[-1]) if lines else {}

    def plugin_reader(self, name):
        """What it gives to our harness, as own_readers()."""
        from dassl.utils.errors import UserError

        data = str(self.place / "data_plugin")
        config = {"DATASET.ROOT": data, "DATASET.NUM_SHOTS": 1, "SEED": 1, "DATASET.NAME": name}
        try:
            lists = self.checkout.ask("read", reader=name, config=config)
        except UserError as error:
            return str(error)
        parts = (lists["train_x"], lists["val"], lists["test"])
        return [[[os.path.basename(path), label, classname] for path, label, _, classname in p or []] for p in parts]


def _random_weights(source, path):
    """The random CLIP of the oracle in OpenAI's layout, the marks of OpenAI's own files included."""
    import torch

    spec = importlib.util.spec_from_file_location("oracle_weights", source)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    marks = {"input_resolution": 48, "context_length": 77, "vocab_size": 49408}
    torch.save(module.weights("wide") | {k: torch.tensor(v) for k, v in marks.items()}, path)
