"""`load` a finished run, or a bundle: a Model that reads new images.

    model = cilmp.load("output/.../seed1/train_all")
    model.predict(["a.png"]);  model.predict_proba(["a.png"]);  model.classes
"""

import contextlib
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from cilmp.experiments import kept as keeping
from cilmp.trainers.features import MICRO_BATCH, micro_batch
from cilmp.trainers.learner import unit
from dassl.utils.errors import MissingFile, UserError
from dassl.utils.io import read_json_object

from . import images as pictures
from .trainer import built

BATCH = 32


def load(path, device="auto", weights="", plugin=()):
    """The Model of a finished run's folder, or of a bundle.

    Args:
        device: "auto" (CUDA where it is), "cpu", "cuda".
        weights: the backbone's file, where it is not where it was.
        plugin: files of methods of one's own, where they are not where they were.

    Raises:
        UserError: in one line, what is wrong with the folder, or what it needs that is not here.
    """
    folder = Path(path).expanduser()
    results, kept = results_of(folder), kept_of(folder)
    trainer = built(folder, results, kept, device, weights, plugin)
    source = folder / kept["source"] if kept.get("source") else folder
    for name in trainer.get_model_names():
        load_learned(trainer, name, source, results, kept)
    return Model(folder, trainer, results, kept)


def results_of(folder):
    """The results of a finished run; of one that was judged on val alone, those.

    Raises:
        MissingFile, UserError: not finished, no run, or of another version of the toolbox.
    """
    if not folder.is_dir():
        raise MissingFile(f"no such run or bundle: {folder}")
    found = next((p for p in (folder / "results.json", folder / "results_val.json") if p.is_file()), None)
    if found is None:
        raise MissingFile(_no_run(folder))
    results = read_json_object(found)
    if results.get("schema") != 2 or "spec" not in results:
        raise UserError(f"{folder} is a run of another version of the toolbox (results of schema "
                        f"{results.get('schema')}, here 2): train it again")  # fmt: skip
    return results


def _no_run(folder):
    if (folder / "config.yaml").is_file():
        return f"{folder} has not finished, it has no results.json: the command that began it goes on where it was"
    below = sorted(p.parent.relative_to(folder).as_posix() for p in folder.rglob("results.json"))
    if below:
        return f"{folder} is no run, there are {len(below)} below it: name one, e.g. {folder / below[0]}"
    return f"{folder} is neither a finished run nor a bundle: it holds no results.json"


def kept_of(folder):
    """What the run kept for its use."""
    path = folder / keeping.FILE
    if not path.is_file():
        raise MissingFile(f"{folder} keeps nothing for its use ({keeping.FILE} is missing): it was trained by an older "
                          f"version of the toolbox, or in another's checkout; train it again")  # fmt: skip
    kept = read_json_object(path)
    if kept.get("form") != keeping.FORM:
        raise UserError(f"{path} is of another version of the toolbox (form {kept.get('form')} of version "
                        f"{kept.get('version')}, here {keeping.FORM}): use that version, or train again")  # fmt: skip
    return kept


def load_learned(trainer, name, source, results, kept):
    """Copy the learned tensors of a run in, from safetensors alone."""
    from dassl.engine.checkpoint import load_model_state

    path = source / name / "learner.safetensors"
    if kept.get("source_epoch") is not None:
        raise UserError(f"this tested epoch {kept['source_epoch']} of {source}, and only what a run deployed can be "
                        f"used: load that run")  # fmt: skip
    if not path.is_file():
        raise MissingFile(f"no learned tensors {path}: the run that trained them is gone, or damaged")
    try:
        state = load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} can't be read as safetensors ({error}): the file is damaged") from None
    trained = kept_of(source) if kept.get("source") else kept
    spec = results["spec"].get("source") or results["spec"]
    trainer.trained_on(trained["classes"], spec["dataset"])
    load_model_state(trainer._models[name], state, path)


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
        path = self.folder / "calibration.json"
        self.calibration = read_json_object(path) if path.is_file() else None
        trainer.set_model_mode("eval")
        for module in (trainer.model, getattr(trainer, "clip", None)):
            if module is not None:
                module.eval().requires_grad_(False)

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
    def predict_logits(self, images, batch_size=BATCH, on_bad=None):
        """(N, C) float32 numpy; rows of the images that could be read."""
        size = MICRO_BATCH[self.device.type] if self.transductive else batch_size
        batches = self.read(images, size, on_bad)
        if self.transductive:  # all images are answered together, of features in the bits of the run's own test
            features = [micro_batch(self._learner, batch, size, self.device) for batch in batches]
            batches = [torch.cat(features).to(self.device)] if features else []
        found = [self.logits(batch).cpu() for batch in batches]
        return torch.cat(found).numpy() if found else np.empty((0, len(self.classes)), np.float32)

    def predict_proba(self, images, batch_size=BATCH, on_bad=None):
        """(N, C) float32 numpy: probabilities of the classes, rows in the order of the images."""
        return softmax(self.predict_logits(images, batch_size, on_bad))

    def predict(self, images, batch_size=BATCH):
        """(N,) numpy array of class names."""
        return np.array(self.classes, dtype=object)[self.predict_proba(images, batch_size).argmax(1)]

    @torch.no_grad()
    def features(self, images, batch_size=BATCH):
        """(N, d) float32 numpy: unit image features."""
        found = [self.image_features(batch).cpu() for batch in self.read(images, batch_size)]
        return torch.cat(found).numpy()

    def explain(self, image, *args, **kwargs):
        """Why an image is answered as it is."""
        raise NotImplementedError


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
