"""Features of a frozen image tower in place of images: one image pass for all runs that see the same pixels.

Augmentation is seeded by (seed, epoch, index), so methods that leave the image tower alone see the same pixels in the
same epochs. `FeatureItems` stands where the images stood: same order, labels and paths, nothing decoded. The features
of a list of images are computed in the list's order, in micro-batches of one size (the last one is filled up), as what
a feature is in its last bits depends on the shape it was computed in. So it neither matters who computed them, nor
whether they are kept (`feature_store.py`, TRAIN.CACHE_FEATURES), nor the batches of training and test.

Keyed by all that they depend on: the image tower's weights and architecture, its precision, what the method does to
it, the transform, seed and epoch where the transform draws, the images' bytes and their order, the micro-batch, the
device and the versions of what computes.
"""

import functools
import os
import time

import torch
from torch.utils.data import Dataset

from dassl.data import build_data_loader
from dassl.data.data_manager import Batches, DatasetWrapper
from dassl.engine.results import versions
from dassl.utils.arrays import is_array_image
from dassl.utils.errors import ConfigError, UserError
from dassl.utils.images import image_hash
from dassl.utils.io import sha256_of

from .feature_store import FeatureStore
from .precision import AUTOCAST

FORM = 1  # of what is kept; raise it when the same key would stand for other numbers
FIXED = {"normalize", "instance_norm", "center_crop"}  # INPUT.TRANSFORMS that give an image one form
MICRO_BATCH = {"cpu": 8, "cuda": 64}  # images that go through the tower at once
POLL_SECONDS = 0.2  # between looks at features that another process computes
LOADERS = ("train_loader_x", "val_loader", "test_loader")


def deterministic(cfg):
    """Whether an image has one form in training."""
    return set(cfg.INPUT.TRANSFORMS) <= FIXED and cfg.DATALOADER.K_TRANSFORMS == 1


def hand_out_features(trainer):
    """Put loaders of features in place of the trainer's loaders of images, where its image tower is frozen."""
    for name in LOADERS:
        setattr(trainer, name, in_place_of(trainer, getattr(trainer, name)))


def in_place_of(trainer, loader):
    """A loader of features for one of images, where the trainer's image tower is frozen; else the loader itself."""
    if not trainer.model.image_key or not one_view(loader):
        return loader
    return Batches(
        FeatureItems(trainer, loader.dataset), batch_size=loader.batch_size, sampler=loader.sampler,
        drop_last=loader.drop_last, collate_fn=loader.collate_fn, pin_memory=loader.pin_memory,
        generator=loader.generator,
    )  # fmt: skip


def one_view(loader):
    """Whether a loader gives one tensor of every image: no second views, no original beside it, none left out."""
    items = getattr(loader, "dataset", None)
    if type(loader) is not Batches or type(items) is not DatasetWrapper:
        return False
    return items.k_tfm == 1 and callable(items.transform) and not (items.return_img0 or items.skip_bad)


class FeatureItems(Dataset):
    """Stands where DatasetWrapper stands: items {img: feature (d,), label, domain, impath, index}.

    Args:
        trainer: PromptTrainer whose learner's image tower is frozen.
        images: the DatasetWrapper.
    """

    def __init__(self, trainer, images):
        self.trainer, self.images, self.items = trainer, images, images.data_source
        self.fixed = not images.is_train or deterministic(images.cfg)
        self.size = MICRO_BATCH.get(trainer.device.type, MICRO_BATCH["cuda"])
        self.now, self._pass = (None, None), None  # (epoch, its features); the loader of images

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        item = self.items[index]
        return {"img": self.of(getattr(index, "epoch", 0))[int(index)], "label": item.label, "domain": item.domain,
                "impath": item.impath, "index": int(index)}  # fmt: skip

    def of(self, epoch=0):
        """(N, d) float32 features of all items as this epoch shows them, not normalised; on the CPU."""
        epoch = 0 if self.fixed else epoch
        if self.now[0] != epoch:
            self.now = epoch, self._found(epoch)
        return self.now[1]

    def _found(self, epoch):
        """The kept features, or computed ones; while another process computes them, those of later epochs are made."""
        if self.key is None:
            return self.compute(epoch)
        store = FeatureStore(self.limit)
        while (found := store.read(self.key_of(epoch))) is None:
            for e in range(epoch, max(epoch + 1, 0 if self.fixed else self.trainer.max_epoch)):
                made = store.make(self.key_of(e), functools.partial(self.compute, e))
                if made is not None and e == epoch:
                    return made
                if made is not None:
                    break
            else:
                time.sleep(POLL_SECONDS)
        return found

    @torch.no_grad()
    def compute(self, epoch):
        """(N, d) float32: one pass over the images.

        Raises:
            UserError: an image can't be read.
        """
        from tqdm import tqdm

        if self._pass is None:
            self._pass = build_data_loader(
                self.images.cfg, "SequentialSampler", self.items, self.size, tfm=self.images.transform,
                is_train=self.images.is_train, dataset_wrapper=lambda *_, **__: self.images, drop_last=False,
            )  # fmt: skip
        self._pass.set_epoch(epoch)
        with torch.random.fork_rng():  # a pass over a loader moves the generator that orders training
            batches = tqdm(self._pass, desc="image features", unit="batch", leave=False, delay=5, disable=None)
            found = [self._encode(batch["img"]) for batch in batches]
        if (seen := sum(map(len, found))) != len(self.items):
            raise UserError(
                f"{len(self.items) - seen} unreadable images were skipped, but this method needs every image's "
                f"features: remove them from the split"
            )
        return torch.cat(found)

    def _encode(self, images):
        return micro_batch(self.trainer.model, images, self.size, self.trainer.device)

    @property
    def limit(self):
        """Bytes that kept features may take."""
        return int(self.images.cfg.TRAIN.FEATURES_GIB * 2**30)

    def key_of(self, epoch):
        return sha256_of([self.key, 0 if self.fixed else epoch])

    @functools.cached_property
    def key(self):
        """Hash of all that the features depend on besides the epoch; None: they are not kept."""
        cfg, trainer, transform = self.images.cfg, self.trainer, str(self.images.transform)
        if not cfg.TRAIN.CACHE_FEATURES or not self._fit() or " at 0x" in transform:  # a step without a name
            return None
        if None in (pictures := [content(item) for item in self.items]):
            return None
        clip, model = trainer.clip, trainer.model
        drawn = None if self.fixed else [{k: v for k, v in cfg.INPUT.items() if k != "SET"}, self.images.seed]
        tower = [clip.name, repr(clip.image), clip.image_hash, trainer.precision, str(AUTOCAST[trainer.precision]),
                 cfg.TRAIN.COMPILE, model.image_key]  # fmt: skip
        return sha256_of([FORM, self.size, machine(trainer.device), tower, transform, drawn, pictures])

    def _fit(self):
        """Whether the whole training's features have room together: else each would go before it is read again."""
        epochs = 1 if self.fixed else self.trainer.max_epoch
        return 4 * len(self.items) * self.trainer.clip.embed_dim * epochs <= self.limit


def micro_batch(learner, images, size, device):
    """(n, d) features, on the CPU, of n images, computed as a whole micro-batch of this size."""
    short = size - len(images)
    whole = torch.cat([images, images[-1:].expand(short, -1, -1, -1)]) if short else images
    return learner.image_features(whole.to(device, non_blocking=True))[: len(images)].cpu()


def content(item):
    """What an image's pixels are made of, as a hash; None where that can't be told."""
    if hasattr(item, "image"):  # pixels of its own
        return item.content() if hasattr(item, "content") else None
    if is_array_image(item.impath):
        return image_hash(item.impath)
    try:
        facts = os.stat(item.impath)
        return _hash_of(item.impath, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns)
    except OSError:  # the pass over the images says it better
        return None


@functools.lru_cache(maxsize=2**17)
def _hash_of(path, size, changed, renewed):
    """`image_hash`, remembered in this process for as long as size and times stay."""
    return image_hash(path)


def machine(device):
    """What else the last bits depend on: the kind of device and the versions of what computes."""
    import PIL

    if device.type == "cuda":
        place = [torch.cuda.get_device_name(device), torch.version.cuda, torch.backends.cuda.matmul.allow_tf32]
    else:
        place = [torch.backends.cpu.get_cpu_capability(), torch.get_num_threads()]
    return [device.type, *place, versions(), PIL.__version__]


def check_bound(cfg):
    """Refuse what is no bound of the kept features."""
    if not cfg.TRAIN.FEATURES_GIB >= 0:
        raise ConfigError(f"TRAIN.FEATURES_GIB {cfg.TRAIN.FEATURES_GIB}: give GiB, 0 to keep no features")
