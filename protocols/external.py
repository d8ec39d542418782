"""External: train on one hospital's set, test on others' test images of the same classes."""

from dassl.utils.paths import slug

from .base import Protocol, by_part, columns_by_part


class External(Protocol):
    """A column the source's own test, then one a target; every method runs, since the classes stay."""

    summary = "train on one set, test on others with the same classes (TARGETS)"
    needs_targets = True

    def refuse(self, dataset, root, targets=()):
        from cilmp import datasets
        from cilmp.datasets.external import same_classes

        for target in targets:
            datasets.refuse_overlap(dataset, target, root)
            same_classes(datasets.info(dataset, root), datasets.info(target, root))

    def runs(self, first, targets=()):
        train = first.but("train_all")
        return [train, *(train.then(f"test_{slug(t)}", {"DATASET.TEST_ON": t}) for t in targets)]

    def columns(self, parts):
        return columns_by_part(parts)

    def figures(self, values):
        return by_part(values)

    def notes(self, dataset, targets=()):
        return [f"test: {dataset}'s own test images; the other columns: test images of other sets, same classes."]


PROTOCOL = External()
