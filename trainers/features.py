"""Features of a frozen image tower: computed once, kept on disk, handed out in place of images.

Keyed by backbone weights, precision, transform, what the method does to the image tower, and the files' bytes: a
changed image, resolution or checkpoint is another file. Only for deterministic transforms.
"""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch.utils.data import Dataset

from dassl.data import build_data_loader
from dassl.data.transforms import build_transform
from dassl.utils.errors import UserError
from dassl.utils.images import image_hash
from dassl.utils.io import atomic_path, sha256_of
from dassl.utils.paths import cache_root

FIXED = {"normalize", "instance_norm", "center_crop"}  # INPUT.TRANSFORMS that give an image one form


class FeatureItems(Dataset):
    """Stands where DatasetWrapper stands: items {img: feature (d,), label, domain, impath, index}."""

    def __init__(self, features, items):
        self.features, self.items = features, items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        item = self.items[index]
        return {"img": self.features[index], "label": item.label, "domain": item.domain, "impath": item.impath,
                "index": index}  # fmt: skip


def deterministic(cfg):
    """Whether an image has one form in training."""
    return set(cfg.INPUT.TRANSFORMS) <= FIXED and cfg.DATALOADER.K_TRANSFORMS == 1


@torch.no_grad()
def features_of(trainer, items, transform, is_train=False, epoch=0):
    """(N, d) float32 features of the items, in their order, not normalised.

    Args:
        trainer: PromptTrainer whose learner's image tower is frozen.
        transform: image -> tensor; a random one is seeded by (seed, epoch, index) if `is_train`.
    """
    loader = build_data_loader(
        trainer.cfg, "SequentialSampler", items, trainer.cfg.DATALOADER.TEST.BATCH_SIZE, tfm=transform,
        is_train=is_train, drop_last=False,
    )  # fmt: skip
    if is_train:
        loader.set_epoch(epoch)
    found, seen = [], 0
    with torch.random.fork_rng(), trainer.autocast():  # a pass over a loader moves the generator that orders training
        for batch in loader:
            found.append(trainer.model.image_features(batch["img"].to(trainer.device)).float().cpu())
            seen += len(batch["img"])
    if seen != len(items):
        raise UserError(
            f"{len(items) - seen} unreadable images were skipped, but this method needs every image's features: remove "
            f"them from the split"
        )
    return torch.cat(found)


def cached_features(trainer, items, transform):
    """`features_of`, from <cache>/features where they were computed before."""
    if any(hasattr(item, "image") for item in items):  # pixels of its own, no file to hash
        return features_of(trainer, items, transform)
    facts = [trainer.clip.weights_hash, trainer.precision, str(transform), trainer.model.image_key]
    key = sha256_of([*facts, [image_hash(item.impath) for item in items]])
    path = Path(cache_root()) / "features" / f"{key}.safetensors"
    if path.is_file():
        return load_file(str(path))["features"]
    features = features_of(trainer, items, transform)
    with atomic_path(path) as temporary:
        save_file({"features": features}, str(temporary))
    return features


def train_on_features(trainer):
    """Replace the trainer's train and val loaders by loaders of cached features: the image tower is done."""
    cfg, dm = trainer.cfg.clone(), trainer.dm
    cfg.defrost()
    cfg.DATALOADER.NUM_WORKERS = 0  # nothing is read
    train, test = cfg.DATALOADER.TRAIN_X, cfg.DATALOADER.TEST

    def loader(items, transform, sampler, batch_size, is_train, **sizes):
        bank = FeatureItems(cached_features(trainer, items, transform), items)
        return build_data_loader(cfg, sampler, items, batch_size, tfm=transform, is_train=is_train,
                                 dataset_wrapper=lambda *_, **__: bank, **sizes)  # fmt: skip

    fixed, plain = build_transform(cfg, is_train=True), build_transform(cfg, is_train=False)
    trainer.train_loader_x = loader(dm.dataset.train_x, fixed, train.SAMPLER, train.BATCH_SIZE, True,
                                    n_domain=train.N_DOMAIN, n_ins=train.N_INS)  # fmt: skip
    if dm.dataset.val and cfg.TEST.FINAL_MODEL == "best_val":
        trainer.val_loader = loader(dm.dataset.val, plain, test.SAMPLER, test.BATCH_SIZE, False)
