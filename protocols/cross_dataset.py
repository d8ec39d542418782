"""Cross-dataset: train on one set, test the same prompts on others with other classes."""

import contextlib

from dassl.utils.errors import UserError
from dassl.utils.paths import slug

from .base import Protocol, by_part, columns_by_part


class CrossDataset(Protocol):
    """A column the source's own test, then one a target."""

    summary = "train on one data set, test on others (TARGETS)"
    needs_targets = True
    other_classes = True

    def refuse(self, dataset, root, targets=()):
        from cilmp.datasets import refuse_overlap

        for target in targets:
            refuse_overlap(dataset, target, root)

    def runs(self, first, targets=()):
        train = first.but("train_all")
        return [train, *(train.then(f"test_{slug(t)}", {"DATASET.NAME": t, "DATASET.NUM_SHOTS": -1}) for t in targets)]

    def columns(self, parts):
        return columns_by_part(parts)

    def figures(self, values):
        return by_part(values)

    def notes(self, dataset, targets=()):
        from cilmp.datasets.overlap import overlap

        notes = []
        for target in targets:
            with contextlib.suppress(UserError):  # a report may be made where the data are not
                if shared := overlap(dataset, target):
                    notes.append(f"{target} shares images with {dataset}: {shared}.")
        return notes


PROTOCOL = CrossDataset()
