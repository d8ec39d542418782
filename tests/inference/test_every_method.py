"""Every registered method: a run, its data gone, gives the probabilities that it wrote down itself."""

import numpy as np
import pytest

import cilmp
from cilmp import trainers
from cilmp.tests.inference.runs import finished_run

METHODS = sorted(trainers.methods())


@pytest.mark.parametrize("method", METHODS)
def test_the_runs_own_probabilities(method, tmp_path):
    run, paths, wanted = finished_run(method, tmp_path)
    model = cilmp.load(run)
    found = model.predict_proba(paths)
    assert found.shape == wanted.shape and np.abs(found - wanted).max() < 1e-5
    assert len(model.predict_proba(paths[:1])) == 1
    features = model.features(paths)
    assert features.shape[0] == len(paths) and np.allclose(np.linalg.norm(features, axis=1), 1, atol=1e-5)
