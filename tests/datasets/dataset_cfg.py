"""The part of a configuration that a reader looks at."""

from types import SimpleNamespace


def cfg_for(name, root, shots=-1, seed=1, subset="all", sampling="balanced", classnames="dataset", cache=False):
    dataset = SimpleNamespace(NAME=name, ROOT=str(root), NUM_SHOTS=shots, SUBSAMPLE_CLASSES=subset,
                              SHOT_SAMPLING=sampling, CLASSNAMES=classnames)
    wished = SimpleNamespace(SIZE=(224, 224), INTERPOLATION="bicubic")
    return SimpleNamespace(DATASET=dataset, SEED=seed, INPUT=wished, DATALOADER=SimpleNamespace(CACHE_IMAGES=cache))
