"""Small finished runs whose data are gone, for the tests of what is done with runs."""

import os
import shutil

import numpy as np

from cilmp import trainers
from cilmp.benchmarks.harness import make_believe
from cilmp.experiments.reads import Reads
from cilmp.experiments.run import run as run_spec
from cilmp.experiments.settings import base_config
from cilmp.protocols import RunSpec

NAMES = ["left lung", "heart", "liver"]
QUICK = {"SENTENCES": "{}/sentences.json", "N_PROMPTS": 4, "AUGMENT_EPOCH": 2, "SEARCH_STEP": (3, 3), "ITERATIONS": 20}


def config(folder, method, plugins, **options):
    """A short run on the demo backbone, with the keys of plugins."""
    cfg = base_config(plugins)
    values = {
        "TRAINER.NAME": method, "MODEL.BACKBONE.NAME": "demo", "DATASET.NUM_SHOTS": -1, "OPTIM.NAME": "sgd",
        "OPTIM.LR": 0.01, "OPTIM.MAX_EPOCH": 1, "OPTIM.LR_SCHEDULER": "cosine", "DATALOADER.NUM_WORKERS": 0,
        "DATALOADER.TRAIN_X.BATCH_SIZE": 8, "INPUT.TRANSFORMS": ["random_flip", "normalize"], "SEED": 1, "THREADS": 1,
        "OUTPUT_DIR": str(folder), "VERBOSE": False,
    } | options  # fmt: skip
    cfg.merge_from_list([x for pair in values.items() for x in pair])
    return cfg


def finished_run(method, folder, plugins=(), names=NAMES, **options):
    """(run folder, test paths, the run's own probabilities) of one epoch on noise, its data moved away."""
    place = make_believe(folder, names, rows=10, width=16, images=6, side=40)
    node = getattr(trainers.methods().get(method), "defaults", {})
    own = {k: v.format(folder) if isinstance(v, str) else v for k, v in QUICK.items() if k in node}
    options = place | {f"TRAINER.{method.upper()}.{k}": v for k, v in own.items()} | options
    run = folder / "run"
    spec = RunSpec(config(run, method, plugins, **options), "full", "train_all", "demo", plugins=plugins)
    spec = spec.resolved(Reads())
    run_spec(spec, run, quiet=True)
    with np.load(run / "predictions.npz") as found:
        paths, probabilities = found["paths"].tolist(), found["probabilities"]
    data, images = os.path.commonpath(paths), folder / "elsewhere"
    shutil.copytree(data, images)
    for left in folder.iterdir():
        if left not in (run, images):
            shutil.rmtree(left) if left.is_dir() else left.unlink()
    return run, [str(images / os.path.relpath(p, data)) for p in paths], probabilities
