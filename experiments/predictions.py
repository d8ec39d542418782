"""What runs predicted, of the same images in the same order: from predictions.npz, nothing is run again."""

import os
import zipfile
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np

from dassl.utils.errors import UserError

from . import statistics


@dataclass(frozen=True)
class Predictions:
    """names (n,) of images below their common folder, sorted; labels, predictions (n,); probabilities (n, C); groups
    (n,) hashes of patients, empty where none are known."""

    names: np.ndarray
    labels: np.ndarray
    predictions: np.ndarray
    probabilities: np.ndarray
    groups: np.ndarray

    @property
    def images(self):
        """What two runs must agree in to be paired."""
        return self.names.tobytes(), self.labels.tobytes(), self.probabilities.shape

    @property
    def units(self):
        """(n,) patients where they are known, else the images themselves."""
        return self.groups if len(self.groups) else self.names

    def of(self, chosen):
        """These images alone (indices or a mask)."""
        groups = self.groups[chosen] if len(self.groups) else self.groups
        arrays = (self.names, self.labels, self.predictions, self.probabilities)
        return Predictions(*(a[chosen] for a in arrays), groups)


def file_of(record):
    split = record["split"]
    return Path(record["folder"]) / ("predictions.npz" if split == "test" else f"predictions_{split}.npz")


def read(record):
    """Predictions of a run; UserError in a line that says what is wrong with them."""
    if "folder" not in record or not file_of(record).is_file():
        raise UserError("no predictions.npz")
    return of_file(file_of(record))[0]


def of_file(path):
    """(Predictions, {further array: in the same order}) of a file; UserError in a line that says what is wrong."""
    try:
        facts = os.stat(path)
        return _loaded(str(path), facts.st_mtime_ns, facts.st_size)
    except (OSError, ValueError, TypeError, KeyError, IndexError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{Path(path).name} can't be read ({error})") from None


@lru_cache(maxsize=1024)  # a table's statistics, calibration and pictures read the same files
def _loaded(path, _changed, _size):
    with np.load(path, allow_pickle=False) as arrays:
        found = {name: arrays[name] for name in arrays.files if name != "classes"}
    names = names_of(tuple(found["paths"].tolist()), len(found["labels"]))
    order = np.argsort(names, kind="stable")
    arrays = [found[key] for key in ("labels", "predictions", "probabilities")]
    groups = found.get("groups", np.array([], dtype=str))
    _check(len(names), *arrays, groups)
    labels, predictions, probabilities = (a[order] for a in arrays)
    groups = _shared(groups[order]) if len(groups) else groups
    more = {key: found[key][order] for key in found.keys() & {"used"}}
    return Predictions(_shared(names[order]), _shared(labels), predictions, probabilities, groups), more


def _shared(array):
    """The array, its content once for all runs that have the same."""
    return _once(array.tobytes(), array.dtype.str)


@lru_cache(maxsize=64)
def _once(content, dtype):
    return np.frombuffer(content, dtype)


def _check(n, labels, predictions, probabilities, groups):
    if not n or probabilities.ndim != 2 or {len(labels), len(predictions), len(probabilities)} != {n} \
            or len(groups) not in (0, n):  # fmt: skip
        raise ValueError("arrays of different lengths")
    classes = np.arange(probabilities.shape[1])
    known = np.isin(labels, classes).all() and np.isin(predictions, classes).all()
    if not (known and np.isfinite(probabilities).all()):
        raise ValueError("no classes, or no probabilities of them")


@lru_cache(maxsize=64)  # runs of a table have the same images
def names_of(paths, n):
    """Paths below their common folder, as the data may lie elsewhere on another machine; numbers where none were kept
    (a plugin's batches)."""
    if not paths:
        return np.array([f"{i:09d}" for i in range(n)])
    folder = os.path.commonpath([os.path.dirname(p) for p in paths])
    return np.array([os.path.relpath(p, folder) if folder else p for p in paths])


@dataclass(frozen=True)
class Measured:
    """The figures of all runs of one part: {(row, seed): place}, {figure: (values (K,), slopes (K, G))}, unit names
    (G,), whether they are patients, whether the answers are right (K, n), units of images (n,), whether the files say
    whose the images are."""

    places: dict
    figures: dict
    unit_names: np.ndarray
    patients: bool
    right: np.ndarray
    units: np.ndarray
    named: bool

    @cached_property
    def _seeds(self):
        found = {}
        for row, seed in self.places:
            found.setdefault(row, set()).add(seed)
        return found

    def seeds(self, row):
        return self._seeds.get(row, set())


def measured(part, records, figures):
    """(Measured or None, [what was left out]) of records of one part, [(row, record)].

    Runs whose images differ from those of most runs are left out and named.
    """
    found, left = {}, []
    for row, record in records:
        try:
            found[row, str(record["seed"])] = (read(record), record)
        except UserError as error:
            left.append((record, str(error)))
    if not found:
        return None, left
    kinds = [p.images for p, _ in found.values()]
    usual = max(dict.fromkeys(kinds), key=kinds.count)
    left += [(record, "predictions of other images") for p, record in found.values() if p.images != usual]
    same = {key: p for key, (p, _) in found.items() if p.images == usual}
    one = max(same.values(), key=lambda p: len(p.groups))  # older runs did not keep patients
    patients = len(one.groups) > 0 and len(set(one.groups)) < len(one.names)
    unit_names, units = np.unique(one.groups if patients else np.char.add(f"{part}/", one.names), return_inverse=True)
    predictions = np.stack([p.predictions for p in same.values()])
    probabilities = np.stack([p.probabilities for p in same.values()])
    labels = one.labels.astype(int)
    values = {f: statistics.figure(f, labels, predictions, probabilities, units) for f in figures}
    places = {key: k for k, key in enumerate(same)}
    return Measured(places, {f: v for f, v in values.items() if v}, unit_names, patients,
                    predictions == labels, units, len(one.groups) > 0), left  # fmt: skip
