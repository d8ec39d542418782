"""Every registered method: a run, its data gone, gives the probabilities that it wrote down itself."""

import os
import shutil

import numpy as np
import pytest

import cilmp
from cilmp import trainers
from cilmp.benchmarks.harness import make_believe
from cilmp.experiments.reads import Reads
from cilmp.experiments.run import run as run_spec
from cilmp.protocols import RunSpec
from cilmp.tests.trainers.test_features import config

METHODS = sorted(trainers.methods())
QUICK = {"SENTENCES": "{}/sentences.json", "N_PROMPTS": 4, "AUGMENT_EPOCH": 2, "SEARCH_STEP": (3, 3), "ITERATIONS": 20}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """finished(method) -> (run folder, paths, probabilities) of a run of one epoch whose data are gone."""
    made = {}

    def make(method):
        if method not in made:
            made[method] = trained(method, tmp_path_factory.mktemp(method))
        return made[method]

    return make


def trained(method, folder):
    place = make_believe(folder, ["left lung", "heart", "liver"], rows=10, width=16, images=6, side=40)
    node = trainers.methods()[method].defaults
    own = {k: v.format(folder) if isinstance(v, str) else v for k, v in QUICK.items() if k in node}
    options = place | {f"TRAINER.{method.upper()}.{k}": v for k, v in own.items()}
    options |= {"INPUT.TRANSFORMS": ["random_flip", "normalize"], "OPTIM.MAX_EPOCH": 1, "DATASET.NUM_SHOTS": -1,
                "TEST.NO_TEST": False}  # fmt: skip
    run = folder / "run"
    spec = RunSpec(config(run, method, **options), "full", "train_all", "demo").resolved(Reads())
    run_spec(spec, run, quiet=True)
    with np.load(run / "predictions.npz") as found:
        paths, probabilities = found["paths"].tolist(), found["probabilities"]
    data = os.path.commonpath(paths)
    images = folder / "elsewhere"
    shutil.copytree(data, images)
    for left in folder.iterdir():
        if left not in (run, images):
            shutil.rmtree(left) if left.is_dir() else left.unlink()
    return run, [str(images / os.path.relpath(p, data)) for p in paths], probabilities


@pytest.mark.parametrize("method", METHODS)
def test_the_runs_own_probabilities(method, finished):
    run, paths, wanted = finished(method)
    found = cilmp.load(run).predict_proba(paths)
    assert found.shape == wanted.shape and np.abs(found - wanted).max() < 1e-5, np.abs(found - wanted).max()
