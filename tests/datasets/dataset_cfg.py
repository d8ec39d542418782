"""A configuration for a reader: the defaults, and what a test asks."""

from dassl.config import get_cfg_default


def cfg_for(name, root, shots=-1, seed=1, subset="all", sampling="balanced", classnames="dataset"):
    cfg = get_cfg_default()
    cfg.DATASET.NAME, cfg.DATASET.ROOT, cfg.DATASET.NUM_SHOTS, cfg.SEED = name, str(root), shots, seed
    cfg.DATASET.SUBSAMPLE_CLASSES, cfg.DATASET.SHOT_SAMPLING = subset, sampling
    cfg.DATASET.CLASSNAMES, cfg.VERBOSE = classnames, False
    cfg.INPUT.SIZE, cfg.DATALOADER.NUM_WORKERS = (32, 32), 0
    return cfg
