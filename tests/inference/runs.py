"""Small finished runs whose data are gone, for the tests of what is done with runs."""

import os
import shutil

import numpy as np

from cilmp import trainers
from cilmp.benchmarks.harness import make_believe
from cilmp.experiments.reads import Reads
from cilmp.experiments.run import run as run_spec
from cilmp.protocols import RunSpec
from cilmp.tests.trainers.test_features import config

NAMES = ["left lung", "heart", "liver"]
QUICK = {"SENTENCES": "{}/sentences.json", "N_PROMPTS": 4, "AUGMENT_EPOCH": 2, "SEARCH_STEP": (3, 3), "ITERATIONS": 20}


def finished_run(method, folder, plugins=(), **options):
    """(run folder, test paths, the run's own probabilities) of one epoch on noise, its data moved away."""
    place = make_believe(folder, NAMES, rows=10, width=16, images=6, side=40)
    node = getattr(trainers.methods().get(method), "defaults", {})
    own = {k: v.format(folder) if isinstance(v, str) else v for k, v in QUICK.items() if k in node}
    options = place | {f"TRAINER.{method.upper()}.{k}": v for k, v in own.items()} | options
    options = {"INPUT.TRANSFORMS": ["random_flip", "normalize"], "OPTIM.MAX_EPOCH": 1, "DATASET.NUM_SHOTS": -1,
               "TEST.NO_TEST": False} | options  # fmt: skip
    run = folder / "run"
    spec = RunSpec(config(run, method, **options), "full", "train_all", "demo", plugins=plugins).resolved(Reads())
    run_spec(spec, run, quiet=True)
    with np.load(run / "predictions.npz") as found:
        paths, probabilities = found["paths"].tolist(), found["probabilities"]
    data, images = os.path.commonpath(paths), folder / "elsewhere"
    shutil.copytree(data, images)
    for left in folder.iterdir():
        if left not in (run, images):
            shutil.rmtree(left) if left.is_dir() else left.unlink()
    return run, [str(images / os.path.relpath(p, data)) for p in paths], probabilities
