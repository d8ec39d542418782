"""Base and new classes (DATASET.SUBSAMPLE_CLASSES): the two never share a class, whatever a reader does."""

import copy

from dassl.utils.errors import ConfigError


def class_subset(labels, subset):
    """{old label: new label} for all, base (first ceil(n/2) of the sorted labels) or new (the rest)."""
    labels = sorted(set(labels))
    half = -(-len(labels) // 2)
    parts = {"all": labels, "base": labels[:half], "new": labels[half:]}
    if subset not in parts:
        raise ConfigError(f"DATASET.SUBSAMPLE_CLASSES is {subset!r}; use all, base or new")
    return {old: new for new, old in enumerate(parts[subset])}


def ensured(dataset, cfg, reader):
    """The data set as read, with the classes that DATASET.SUBSAMPLE_CLASSES asks for.

    A reader that takes the subset itself (`takes_subset`, or by what it gave) is left alone; from one that gave all
    classes the half is taken here.

    Raises:
        ConfigError: fewer than two classes, or classes that are neither all nor the half.
    """
    subset = cfg.DATASET.SUBSAMPLE_CLASSES
    if subset == "all":
        return dataset
    if not getattr(dataset, "takes_subset", False):
        dataset = _of_foreign(dataset, cfg, reader, subset)
    if len(dataset.classnames) < 2:
        raise ConfigError(
            f"{cfg.DATASET.NAME}: {subset} has {len(dataset.classnames)} class, so every answer is right; base-to-new "
            f"needs at least four classes, two on each side"
        )
    return dataset


def _of_foreign(dataset, cfg, reader, subset):
    whole = cfg.clone()
    whole.defrost()
    whole.DATASET.SUBSAMPLE_CLASSES, whole.VERBOSE = "all", False
    names = list(reader(whole).classnames)
    chosen = class_subset(range(len(names)), subset)
    given, wanted = list(dataset.classnames), [names[old] for old in chosen]
    if given == wanted:
        return dataset
    if given != names:
        raise ConfigError(
            f"{cfg.DATASET.NAME}: its reader gives the classes {', '.join(given[:4])} ... for {subset}, neither all "
            f"{len(names)} nor the {subset} half; let it honour DATASET.SUBSAMPLE_CLASSES or give all classes"
        )
    print(f"{cfg.DATASET.NAME}: its reader gives all classes, the {subset} half is taken here")
    for part in ("_train_x", "_train_u", "_val", "_test"):
        items = getattr(dataset, part, None)
        if items is not None:
            setattr(dataset, part, [_relabelled(i, chosen[i.label]) for i in items if i.label in chosen])
    dataset._num_classes, dataset._classnames = len(wanted), wanted
    dataset._lab2cname = dict(enumerate(wanted))
    return dataset


def _relabelled(item, label):
    item = copy.copy(item)
    item._label = label
    return item
