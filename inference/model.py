"""`load` a finished run, or a bundle: a Model that reads new images.

    model = cilmp.load("output/.../seed1/train_all")
    model.predict(["a.png"]);  model.predict_proba(["a.png"]);  model.classes
"""

import contextlib
from os import PathLike
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from tqdm import tqdm

from cilmp.experiments import kept as keeping
from cilmp.experiments.collect import check_spec
from cilmp.trainers.features import MICRO_BATCH, micro_batch
from cilmp.trainers.learner import unit
from dassl.utils.errors import MissingFile, UserError
from dassl.utils.io import read_json_object, sha256_file

from . import bundle
from . import images as pictures
from .trainer import built

BATCH = 32
HUB = "hub:"
RESULTS = ("results.json", "results_val.json", "fitted.json")  # of a Classifier the last


def load(path, device="auto", weights="", plugin=()):
    """The Model of a finished run's folder, or of a bundle.

    Args:
        path: the folder; "hub:USER/NAME" (or "hub:USER/NAME@REVISION") of a bundle on the Hugging Face hub.
        device: "auto" (CUDA where it is), "cpu", "cuda".
        weights: the backbone's file, where it is not where it was.
        plugin: files of methods of one's own, where they are not where they were.

    Raises:
        UserError: in one line, what is wrong with the folder, or what it needs that is not here.
    """
    folder = bundle.pulled(str(path)[len(HUB) :]) if str(path).startswith(HUB) else Path(path).expanduser()
    inside = bundle.verified(folder)["backbone"]["folder"] if bundle.is_bundle(folder) else ""
    results = results_of(folder)
    kept = kept_of(folder, results)
    trainer = built(folder, results, kept, device, weights, plugin, inside)
    model = Model(folder, trainer, results, kept)
    for name in trainer.get_model_names():
        load_learned(model, name)
    return model.at_rest()


def results_of(folder):
    """The results of a finished run; of one that was judged on val alone, those.

    Raises:
        MissingFile, UserError: not finished, no run, or of another version of the toolbox.
    """
    if not folder.is_dir():
        raise MissingFile(f"no such run or bundle: {folder}")
    found = results_path(folder)
    if found is None:
        raise MissingFile(_no_run(folder))
    results = read_json_object(found)
    if results.get("schema") != 2 or "spec" not in results:
        raise UserError(f"{folder} is a run of another version of the toolbox (results of schema "
                        f"{results.get('schema')}, here 2): train it again")  # fmt: skip
    try:
        check_spec(results)
    except UserError as error:
        raise UserError(f"{found}: {error}") from None
    return results


def results_path(folder):
    return next((p for p in (folder / name for name in RESULTS) if p.is_file()), None)


def _no_run(folder):
    if (folder / "config.yaml").is_file():
        return f"{folder} has not finished, it has no results.json: the command that began it goes on where it was"
    below = sorted(p.parent.relative_to(folder).as_posix() for p in folder.rglob("results.json"))
    if below:
        return f"{folder} is no run, there are {len(below)} below it: name one, e.g. {folder / below[0]}"
    return f"{folder} is neither a finished run nor a bundle: it holds no results.json"


def kept_of(folder, results):
    """What the run kept for its use."""
    path = folder / keeping.FILE
    if not path.is_file() and (results.get("spec", {}).get("settings") or {}).get("RUN.CHECKOUT"):
        raise UserError(f"{folder} is of a method of somebody's checkout, which runs in a process of its own and keeps "
                        f"what it likes: it can be compared here, and not be used on new images")  # fmt: skip
    if not path.is_file():
        raise MissingFile(f"{folder} keeps nothing for its use ({keeping.FILE} is missing): it was trained by an older "
                          f"version of the toolbox, or in another's checkout; train it again")  # fmt: skip
    kept = read_json_object(path)
    if kept.get("form") != keeping.FORM:
        raise UserError(f"{path} is of another version of the toolbox (form {kept.get('form')} of version "
                        f"{kept.get('version')}, here {keeping.FORM}): use that version, or train again")  # fmt: skip
    if words := keeping.misfit_of(kept):
        raise UserError(f"{path} is not what a run keeps ({words}): it was changed or is not whole; get it again, or "
                        f"train again")  # fmt: skip
    return kept


def load_learned(model, name):
    """Copy the learned tensors of a run in, from safetensors alone."""
    from dassl.engine.checkpoint import load_model_state

    kept, path = model.kept, model.learned_in / name / "learner.safetensors"
    if kept.get("source_epoch") is not None:
        raise UserError(f"{model.folder} tested epoch {kept['source_epoch']} of another run, and only what a run "
                        f"deployed can be used: load that run")  # fmt: skip
    if not path.is_file():
        raise MissingFile(f"no learned tensors {path}: the run that trained them is gone, or damaged")
    try:
        state = load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} can't be read as safetensors ({error}): the file is damaged") from None
    trained = model.trained_on
    model.trainer.trained_on(trained["classes"], trained["dataset"])
    load_model_state(model.trainer._models[name], state, path)


class Model:
    """A finished run that reads new images.

    classes: names in label order. spec: what the run is, as results.json says. folder: of the run or bundle. trainer:
    the method, built, with its `clip` and `model`. results: content of results.json. calibration: content of
    calibration.json, or None.
    """

    def __init__(self, folder, trainer, results, kept):
        from dassl.data.transforms import build_transform

        self.folder, self.trainer, self.results, self.kept = Path(folder), trainer, results, kept
        self.classes, self.spec = list(kept["classes"]), results["spec"]
        self.transform = build_transform(trainer.cfg, is_train=False)
        if self.transform is None:
            raise UserError(f"{folder} was run with INPUT.NO_TRANSFORM: how images become tensors is not known here")
        self.calibration = _calibration_of(self.folder, self.classes)
        own = bundle.is_bundle(self.folder) or not kept.get("source")  # a bundle holds what it needs
        self.learned_in = self.folder if own else self.folder / kept["source"]

    def at_rest(self):
        """In evaluation mode, without gradients of parameters; returns the model."""
        self.trainer.set_model_mode("eval")
        for module in (self.trainer.model, getattr(self.trainer, "clip", None)):
            if module is not None:
                module.eval().requires_grad_(False)
        return self

    @property
    def trained_on(self):
        """{"classes", "labels", "dataset"} that the tensors were learned on: of a test, those of the run that trained
        them; labels as kept.json has them.

        Raises:
            UserError: that run is gone, or was trained anew.
        """
        if "trained_on" in self.kept:
            return self.kept["trained_on"]
        if not self.kept.get("source"):
            return {"dataset": self.spec["dataset"], **{k: self.kept[k] for k in ("classes", "labels")}}
        theirs = results_of(self.learned_in)
        wanted = self.results.get("source_sha256")
        if wanted and sha256_file(results_path(self.learned_in)) != wanted:
            raise UserError(f"{self.learned_in} was trained anew since {self.folder} tested it: test it again")
        kept = kept_of(self.learned_in, theirs)
        return {"dataset": theirs["dataset"], **{k: kept[k] for k in ("classes", "labels")}}

    @property
    def method(self):
        return self.spec["method"]

    @property
    def device(self):
        return self.trainer.device

    @property
    def transductive(self):
        """Whether an answer depends on the other images that are asked about."""
        return bool(getattr(self.trainer, "transductive", False))

    def __repr__(self):
        return f"<{self.method} on {self.spec['dataset']}, {len(self.classes)} classes: {self.folder}>"

    # ---- of batches

    def read(self, images, batch_size=BATCH, on_bad=None):
        """Yield (B, 3, H, W) float32 tensors, normalised, of paths, PIL images, arrays or tensors, in their order.

        on_bad: called with (place in the list, UserError) of an image that can't be read, which is left out; None: it
        is raised.
        """
        for _, batch in pictures.batches(pictures.listed(images), self.transform, batch_size, on_bad):
            yield batch

    def logits(self, batch):
        """(B, C) float32 before the softmax, scale included, of a normalised batch (B, 3, H, W). The caller's grad mode
        counts. A transductive method takes the batch for all images there are."""
        return self.trainer.model_inference(batch.to(self.device)).float()

    def image_features(self, batch):
        """(B, d) float32 unit image features of a normalised batch: those that the method's logits are made of, with
        its visual prompts and adapters in the tower."""
        if self._learner.image_key:  # the tower alone says it
            return unit(self._learner.image_features(batch.to(self.device)))
        return self.answers(batch)[1]

    def answers(self, batch):
        """(`logits`, `image_features`) of a batch in one pass."""
        tower, seen = self._learner.clip.image, []
        with _watched(tower, ("encode", "encode_late"), seen):
            logits = self.logits(batch)
        return logits, unit(seen[0])

    @property
    def _learner(self):
        model = self.trainer.model
        if not hasattr(model, "image_key"):
            raise UserError(f"{self.method} is no method of the toolbox's own kind: it does not say its image features")
        return model

    # ---- of images

    @torch.no_grad()
    def outputs(self, images, batch_size=BATCH, on_bad=None, features=False, progress=False):
        """(places, logits (N, C), features (N, d) or None) of the images that could be read, float32 numpy.

        Args:
            on_bad: as of `read`.
            features: unit image features too, out of the same pass.
            progress: a bar on a terminal.
        """
        images, parts = pictures.listed(images), []
        size = MICRO_BATCH[self.device.type] if self.transductive else batch_size
        with tqdm(total=len(images), unit="image", leave=False, delay=1, disable=None if progress else True) as bar:
            for at, batch in pictures.batches(images, self.transform, size, on_bad):
                parts.append((at, *self._output(batch, size, features)))
                bar.update(len(at))
        places = [place for at, *_ in parts for place in at]
        seen = torch.cat([f for *_, f in parts]) if parts and parts[0][2] is not None else None
        if self.transductive and parts:  # all images are answered together
            logits = self.logits(seen).cpu()
        else:
            logits = torch.cat([z for _, z, _ in parts]) if parts else torch.empty(0, len(self.classes))
        return places, logits.numpy(), unit(seen).numpy() if features and seen is not None else None

    def _output(self, batch, size, features):
        """(logits or None, features or None) of a batch, on the CPU."""
        if self.transductive:  # in the bits of the run's own test
            return None, micro_batch(self._learner, batch, size, self.device)
        if features:
            return tuple(part.cpu() for part in self.answers(batch))
        return self.logits(batch).cpu(), None

    def predict_proba(self, images, batch_size=BATCH, on_bad=None):
        """(N, C) float32 numpy: probabilities of the classes, rows in the order of the images."""
        return softmax(self.outputs(images, batch_size, on_bad)[1])

    def predict(self, images, batch_size=BATCH):
        """(N,) numpy array of class names."""
        return np.array(self.classes, dtype=object)[self.predict_proba(images, batch_size).argmax(1)]

    @torch.no_grad()
    def features(self, images, batch_size=BATCH):
        """(N, d) float32 numpy: unit image features."""
        found = [self.image_features(batch).cpu() for batch in self.read(images, batch_size)]
        return torch.cat(found).numpy()

    def table(self, images, batch_size=BATCH):
        """A pandas DataFrame, a row an image: prediction, probability, what calibration says, p(<class>) of each."""
        from pandas import DataFrame

        from .rows import columns_of

        images = pictures.listed(images)
        _, logits, features = self.outputs(images, batch_size, features=self.calibration is not None)
        index = [str(i) for i in images] if all(isinstance(i, (str, PathLike)) for i in images) else None
        return DataFrame(columns_of(self, logits, features), index=index)

    def judged(self, logits, features):
        """{column: N values} of what the calibration says of logits (N, C) and unit features (N, d): prediction sets,
        whether an image is unlike the training images. Empty without a calibration."""
        from .calibration import judged

        return judged(self.folder, self.calibration, softmax(logits), features) if self.calibration else {}

    def explain(self, image, classes=None, among=()):
        """Why an image is answered as it is: see `explain.explain`."""
        from .explain import explain

        return explain(self, image, classes, among)


def _calibration_of(folder, classes):
    """Content of a run's calibration.json, None without one; of it alone what reads it is imported."""
    if not (folder / "calibration.json").is_file():
        return None
    from .calibration import read

    return read(folder, classes)


@contextlib.contextmanager
def _watched(tower, names, seen):
    """Append the image features (B, d) that methods of a tower give in this context to `seen`."""

    def watching(method):
        def run(*args, **kwargs):
            found = method(*args, **kwargs)
            seen.append(found[0] if isinstance(found, tuple) else found)
            return found

        return run

    try:
        for name in names:
            setattr(tower, name, watching(getattr(tower, name)))
        yield
    finally:
        for name in names:
            tower.__dict__.pop(name, None)


def softmax(logits):
    """(N, C) float32 probabilities, computed in double as the evaluation does."""
    return torch.from_numpy(np.asarray(logits)).double().softmax(-1).float().numpy()
