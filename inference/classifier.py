"""Classifier: a method of the toolbox as a scikit-learn estimator, trained by the same engine.

    clf = cilmp.Classifier(method="CoOp", backbone="demo").fit(paths, labels)
    clf.predict(paths);  clf.predict_proba(paths);  clf.save("my_bundle")
"""

import contextlib
import io
import os
import shlex
import tempfile
import threading
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.model_selection import train_test_split
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_consistent_length, check_is_fitted, column_or_1d

from cilmp.datasets.locate import DatasetInfo
from dassl.data.datasets import DATASET_REGISTRY, DatasetBase, Datum
from dassl.utils.errors import UserError
from dassl.utils.io import write_json

from . import images as pictures

NAME = "fitted"  # of its data set: what a language model says of a class is kept under it
FILE = "fitted.json"  # says that the run has finished; there is no test
ONE_AT_A_TIME = threading.Lock()  # registry, random generators and standard output are the process's


class Classifier(ClassifierMixin, BaseEstimator):
    """A method trained on images and labels.

    Args:
        method, backbone, weights, llm: as of `cilmp run`; llm "": the default of methods that read one.
        epochs: 0: the method's own number. cfg: a file of configs/trainers/<Method>/. opts: {key: value} of the
            configuration, e.g. {"OPTIM.LR": 0.01}. plugin: files of methods of one's own.
        class_names: what a label is called in prompts, {label: name}; None: the label itself.
        modality: what the images are, for questions to a language model, e.g. "chest X-ray image".
        validation_fraction: share of the images of each class that is held out, for methods that choose on it.
        seed, device ("auto", "cpu", "cuda"), batch_size (of predictions), verbose.

    X is a sequence of paths, PIL images, arrays or tensors; y of labels, which are words or whole numbers. Fitted
    attributes: classes_ (sorted labels, columns of predict_proba), model_ (the Model).
    """

    def __init__(self, method="CILMP", backbone="ViT-B/16", weights="", llm="", epochs=0, cfg="", opts=None, plugin=(),
                 class_names=None, modality="", validation_fraction=0.0, seed=1, device="auto", batch_size=32,
                 verbose=False):  # fmt: skip
        self.method, self.backbone, self.weights, self.llm = method, backbone, weights, llm
        self.epochs, self.cfg, self.opts, self.plugin = epochs, cfg, opts, plugin
        self.class_names, self.modality, self.validation_fraction = class_names, modality, validation_fraction
        self.seed, self.device, self.batch_size, self.verbose = seed, device, batch_size, verbose

    def fit(self, X, y):
        """Train; returns itself. Nothing is written but into a temporary folder, and the caches."""
        X, y = _sequence(X), column_or_1d(y)
        check_consistent_length(X, y)
        check_classification_targets(y)
        self.classes_, labels = np.unique(y, return_inverse=True)
        names = self._names()
        folder, before = tempfile.TemporaryDirectory(prefix="cilmp-"), torch.get_num_threads()
        quiet = contextlib.nullcontext() if self.verbose else contextlib.redirect_stdout(io.StringIO())
        try:
            with ONE_AT_A_TIME, quiet, _own_random_state(), self._data(X, labels, names):
                self._train(folder.name)
        finally:
            torch.set_num_threads(before)
        self._run, self._model = folder, None
        return self

    def predict(self, X):
        """(N,) labels."""
        check_is_fitted(self)
        return self.classes_[self.predict_proba(X).argmax(1)]

    def predict_proba(self, X):
        """(N, C) float32, columns as classes_."""
        check_is_fitted(self)
        return self.model_.predict_proba(_sequence(X), self.batch_size)

    @property
    def model_(self):
        """The Model of what was fitted."""
        check_is_fitted(self)
        if self._model is None:
            from .model import load

            self._model = load(self._folder(), self.device, self.weights, self.plugin)
        return self._model

    def save(self, folder, with_backbone=False):
        """Write a bundle, which `cilmp.load` reads; pickles of an estimator are for the workers of joblib alone."""
        from .export import export

        check_is_fitted(self)
        return export(self._folder(), folder, with_backbone, self.weights, self.plugin)

    # ---- scikit-learn

    def __sklearn_is_fitted__(self):
        return hasattr(self, "_run")

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array, tags.input_tags.string = False, True
        return tags

    def __getstate__(self):
        """What was fitted as bytes of its files, so that a worker's estimator comes back whole."""
        state = dict(super().__getstate__())
        state.pop("_model", None)
        if "_run" in state:
            state["_run"] = _files(self._folder())
        return state

    def __setstate__(self, state):
        super().__setstate__(state)
        if hasattr(self, "_run"):
            self._model = None

    def _folder(self):
        """The folder of the fitted run; of an estimator that came through memory, written now."""
        if isinstance(self._run, dict):
            files, self._run = self._run, tempfile.TemporaryDirectory(prefix="cilmp-")
            for name, content in files.items():
                path = Path(self._run.name, name)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
        return self._run.name

    # ---- training

    def _names(self):
        """Names of classes_ in prompts."""
        if len(self.classes_) < 2:
            raise UserError(f"y has {len(self.classes_)} class; a classifier needs two or more")
        labels = self.classes_.tolist()
        if self.class_names is None:
            return [str(label) for label in labels]
        if missing := [label for label in labels if label not in self.class_names]:
            raise UserError(f"class_names has no name of label {missing[0]!r}; it has {list(self.class_names)[:8]}")
        return [str(self.class_names[label]) for label in labels]

    @contextlib.contextmanager
    def _data(self, X, labels, names):
        """Have the images as the data set NAME in this context."""
        if len(set(names)) < len(names) or not all(name.strip() for name in names):
            raise UserError(f"names of classes must differ and not be empty: {names[:8]}")
        items, val = [_Given(x, i, k, names[k]) for i, (x, k) in enumerate(zip(X, labels.tolist()))], []
        if self.validation_fraction:
            items, val = _held_out(items, self.validation_fraction, self.seed)
        info = DatasetInfo(NAME, tuple(names), self.modality, {name: name for name in names})

        def read(self, cfg):  # the engine wants test images; nothing is tested, and none are looked at
            DatasetBase.__init__(self, train_x=items, val=val or None, test=items[:1])
            self._num_classes, self._classnames, self._lab2cname = len(names), list(names), dict(enumerate(names))
            self.info, self.modality = info, info.modality

        DATASET_REGISTRY.register(type(NAME, (DatasetBase,), {"__init__": read}), force=True)
        try:
            yield
        finally:  # the registry outlives the fit, the images need not
            items.clear()
            val.clear()

    def _spec(self):
        from cilmp.experiments.plugins import listed
        from cilmp.experiments.settings import Request, base_config
        from dassl.engine import TRAINER_REGISTRY

        plugin = listed(self.plugin)
        opts = {"TEST.NO_TEST": True, "USE_CUDA": self.device != "cpu"} | dict(self.opts or {})
        if opts["TEST.NO_TEST"] is not True:
            raise UserError("opts: TEST.NO_TEST: fit has no images to test on, leave it out; score(X, y) tests")
        asked = {"BACKBONE": self.backbone, "WEIGHTS": self.weights, "LLM": self.llm, "CFG": self.cfg,
                 "EPOCHS": self.epochs or "", "PLUGIN": shlex.join(plugin),
                 "OPTS": shlex.join(str(word) for pair in opts.items() for word in pair)}  # fmt: skip
        environ = {key: str(value) for key, value in asked.items()}
        base = base_config(plugin)
        TRAINER_REGISTRY.get(self.method)  # an unknown name is said with the nearest
        request = Request("full", self.method, NAME, [self.seed], environ)
        request.methods = [self.method]
        (spec,) = request.specs(base)
        return spec

    def _train(self, folder):
        from cilmp.experiments.launch import resolved
        from cilmp.experiments.run import run
        from dassl.engine import TRAINER_REGISTRY

        (spec,) = resolved([self._spec()])
        trains = getattr(TRAINER_REGISTRY.get(spec.method), "trains", True)
        run(spec, folder, "train" if trains else "nothing", quiet=not self.verbose)
        facts = {"schema": 2, "method": spec.method, "dataset": NAME, "spec": spec.record(), "reads": spec.reads}
        write_json(facts, Path(folder, FILE))


class _Given(Datum):
    """An image of any kind, with pixels of its own where it is no file."""

    def __init__(self, given, number, label, name):
        named = isinstance(given, (str, os.PathLike))
        super().__init__(os.path.abspath(given) if named else f"image {number}", label, 0, name)
        self.given = given

    def image(self) -> Image.Image:
        return pictures.picture(self.given)


def _sequence(X):
    """X as a list of images: a column of a table is the list of its cells."""
    if getattr(X, "ndim", 0) == 2 and (hasattr(X, "iloc") or X.dtype.kind in "OUS"):
        X = X.iloc[:, 0] if hasattr(X, "iloc") else X[:, 0]
    if isinstance(X, (str, os.PathLike)):
        raise UserError("X is one path: give a list of images")
    return list(X)


def _held_out(items, share, seed):
    """(train, val) with this share of every class in val."""
    try:
        return train_test_split(items, test_size=share, random_state=seed, stratify=[i.label for i in items])
    except ValueError as error:
        raise UserError(f"validation_fraction {share}: {error}") from None


@contextlib.contextmanager
def _own_random_state():
    """Give the caller's random generators back as they were: a run seeds them."""
    from dassl.engine.checkpoint import rng_state, set_rng_state

    before = rng_state()
    try:
        yield
    finally:
        set_rng_state(before)


def _files(folder):
    """{name: bytes} of what a fitted run's folder needs to be loaded."""
    from cilmp.experiments import kept

    wanted = [Path(folder, name) for name in (FILE, kept.FILE, kept.ROWS, kept.SENTENCES)]
    wanted += Path(folder).glob("*/learner.safetensors")
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in wanted if p.is_file()}
