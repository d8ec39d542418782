"""The scikit-learn estimator: what scikit-learn asks of one, and that it is the same engine."""

import gc
import os
import subprocess
import sys
import weakref

import numpy as np
import pytest
import torch
from joblib import parallel_backend
from PIL import Image
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer

import cilmp
from dassl.utils.errors import UnknownName, UserError
from dassl.utils.paths import REPO

COLOURS = {"red": (200, 30, 30), "green": (30, 180, 40)}


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """(paths, words) of 12 images of two colours."""
    folder, noise, paths, labels = tmp_path_factory.mktemp("colours"), np.random.default_rng(0), [], []
    for i in range(12):
        name = list(COLOURS)[i % 2]
        pixels = np.array(COLOURS[name]) + noise.integers(-25, 25, (32, 32, 3))
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{i}.png")
        paths.append(str(folder / f"{i}.png"))
        labels.append(name)
    return paths, labels


def classifier(**more):
    return cilmp.Classifier(**{"method": "LinearProbe", "backbone": "demo", "device": "cpu"} | more)


@pytest.fixture(scope="module")
def fitted(images):
    return classifier().fit(*images)


def test_fit_predict_score(fitted, images):
    paths, labels = images
    assert fitted.classes_.tolist() == ["green", "red"] and fitted.score(paths, labels) == 1
    probabilities = fitted.predict_proba(paths)
    assert probabilities.shape == (12, 2) and np.allclose(probabilities.sum(1), 1, atol=1e-5)
    assert (fitted.predict(paths) == fitted.classes_[probabilities.argmax(1)]).all()


def test_clone_and_params(fitted):
    copy = clone(fitted)
    assert copy.get_params() == fitted.get_params() and not hasattr(copy, "classes_")
    assert copy.set_params(epochs=3, method="CoOp").get_params()["epochs"] == 3
    with pytest.raises(ValueError, match="wings"):
        copy.set_params(wings=2)


def test_no_work_in_init():
    strange = object()
    made = cilmp.Classifier(method=strange, plugin=["/nowhere.py"], epochs=strange, opts=strange)
    assert made.method is strange and made.epochs is strange and made.opts is strange


def test_not_fitted():
    for call in ("predict", "predict_proba"):
        with pytest.raises(NotFittedError):
            getattr(classifier(), call)(["a.png"])
    with pytest.raises(NotFittedError):
        classifier().save("nowhere")


def test_integer_labels_and_their_names(images):
    paths, words = images
    y = np.array([7 if word == "red" else 3 for word in words])
    clf = classifier(class_names={3: "green", 7: "red"}).fit(np.array(paths, dtype=object), y)
    assert clf.classes_.tolist() == [3, 7] and clf.score(paths, y) == 1 and clf.predict(paths).dtype == y.dtype
    assert clf.model_.classes == ["green", "red"]
    with pytest.raises(UserError, match="no name of label 3"):
        classifier(class_names={7: "red"}).fit(paths, y)


def test_pil_arrays_and_tensors_are_the_same_images(fitted, images):
    paths, labels = images
    pil = [Image.open(p) for p in paths]
    arrays = np.stack([np.asarray(i) for i in pil])
    tensors = torch.from_numpy(arrays).permute(0, 3, 1, 2)
    wanted = fitted.predict_proba(paths)
    for given in (pil, arrays, list(tensors), tensors):
        assert np.array_equal(fitted.predict_proba(given), wanted)
    assert np.allclose(classifier().fit(list(arrays), labels).predict_proba(paths), wanted, atol=1e-4)


def test_in_a_pipeline(images):
    paths, labels = images
    opened = FunctionTransformer(lambda X: [Image.open(p) for p in X])
    pipe = Pipeline([("open", opened), ("clf", classifier())]).fit(paths, labels)
    assert pipe.score(paths, labels) == 1


def test_in_a_grid_search(images):
    paths, labels = images
    names = [{"red": "green", "green": "red"}, {"red": "red", "green": "green"}]
    search = GridSearchCV(classifier(method="ZeroshotCLIP"), {"class_names": names}, cv=2, error_score="raise")
    search.fit(paths, labels)
    assert search.best_params_ == {"class_names": names[1]} and search.score(paths, labels) == 1


def test_cross_val_score_in_two_threads(images):
    with parallel_backend("threading"):
        assert cross_val_score(classifier(), *images, cv=2, n_jobs=2, error_score="raise").tolist() == [1, 1]


@pytest.mark.slow  # three processes import torch
def test_cross_val_score_in_two_processes(images):
    """Workers are processes of their own: this one must not be what finds the package for them."""
    code = ("import cilmp, sys; from sklearn.model_selection import cross_validate\n"
            "clf = cilmp.Classifier(method='LinearProbe', backbone='demo', device='cpu')\n"
            "n = len(sys.argv[1:]) // 2\n"
            "X, y = sys.argv[1 : n + 1], sys.argv[n + 1 :]\n"
            "found = cross_validate(clf, X, y, cv=2, n_jobs=2, return_estimator=True, error_score='raise')\n"
            "assert found['test_score'].min() == 1, found\n"
            "assert found['estimator'][0].predict(X[:2]).tolist() == y[:2]\n")  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code, *images[0], *images[1]], capture_output=True, text=True,
                          timeout=300, env=os.environ | {"PYTHONPATH": str(REPO)})  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def test_it_is_the_same_engine_and_leaves_no_trace(images, capsys):
    """Fitting twice gives the same bits; the caller's random numbers and threads stay as they were."""
    torch.manual_seed(5)
    wanted = torch.rand(1)
    torch.manual_seed(5)
    threads = torch.get_num_threads()
    first, second = (classifier(method="CoOp", epochs=1).fit(*images).predict_proba(images[0]) for _ in range(2))
    assert np.array_equal(first, second) and torch.equal(torch.rand(1), wanted)
    assert torch.get_num_threads() == threads and capsys.readouterr().out == ""


def test_a_fit_that_fails_leaves_the_threads_and_keeps_no_image(images):
    threads, picture = torch.get_num_threads(), Image.open(images[0][0])
    held = weakref.ref(picture)
    try:
        torch.set_num_threads(threads + 1)
        with pytest.raises(UserError, match=r"gone\.png"):
            classifier(method="CoOp", epochs=1).fit([picture, "gone.png", *images[0][2:]], images[1])
        assert torch.get_num_threads() == threads + 1
    finally:
        torch.set_num_threads(threads)
    del picture
    gc.collect()
    assert held() is None, "the registry of data sets holds it"


def test_it_is_saved_as_a_bundle_and_travels_in_memory(fitted, images, tmp_path):
    import pickle

    wanted = fitted.predict_proba(images[0])
    bundle = fitted.save(tmp_path / "bundle")
    assert np.array_equal(cilmp.load(bundle, device="cpu").predict_proba(images[0]), wanted)  # where it was fitted
    assert "fitted from Python and tested on nothing" in (tmp_path / "bundle" / "README.md").read_text()
    assert np.array_equal(pickle.loads(pickle.dumps(fitted)).predict_proba(images[0]), wanted)


def test_what_cannot_be_fitted_is_said(images):
    paths, labels = images
    with pytest.raises(UnknownName, match="did you mean 'CoOp'"):
        classifier(method="Coop").fit(paths, labels)
    with pytest.raises(UserError, match="1 class"):
        classifier().fit(paths[:1], labels[:1])
    with pytest.raises(ValueError, match="inconsistent numbers"):
        classifier().fit(paths, labels[:3])
    with pytest.raises(UserError, match=r"gone\.png"):
        classifier().fit([*paths[1:], "gone.png"], labels)
    with pytest.raises(UserError, match="one path"):
        classifier().fit(paths[0], labels)


def test_a_fit_has_nothing_to_test_on(images):
    with pytest.raises(UserError, match=r"TEST\.NO_TEST"):
        classifier(opts={"TEST.NO_TEST": False}).fit(*images)
