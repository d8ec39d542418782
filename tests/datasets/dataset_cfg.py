"""The part of a configuration that a reader looks at."""

from types import SimpleNamespace


def cfg_for(name, root, shots=-1, seed=1, subset="all", sampling="balanced", classnames="dataset", bad="error"):
    dataset = SimpleNamespace(NAME=name, ROOT=str(root), NUM_SHOTS=shots, SUBSAMPLE_CLASSES=subset,
                              SHOT_SAMPLING=sampling, CLASSNAMES=classnames, ON_BAD_IMAGE=bad)
    return SimpleNamespace(DATASET=dataset, SEED=seed, INPUT=SimpleNamespace(SIZE=(224, 224)))
