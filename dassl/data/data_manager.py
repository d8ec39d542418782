"""DataManager: a data set, its transforms and its loaders.

Augmentation of an image is seeded by (SEED, epoch, index), so it depends neither on the number of workers nor on
the order of loading; the order of images comes from torch's global generator, which a pass over a loader moves by
the same draws whatever the number of workers.
"""

import random
import signal

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, default_collate

from dassl.utils.errors import UserError, unknown_name
from dassl.utils.images import read_image

from .datasets import build_dataset
from .samplers import build_sampler
from .transforms import build_transform, plain_transform


class DatasetWrapper(Dataset):
    """Items {img, label, domain, impath, index}; with several transforms also img2, img3 ...; img0 if asked.

    `data_source` items are Datum; one that has an `image()` method brings its own pixels.
    """

    def __init__(self, cfg, data_source, transform=None, is_train=False):
        self.cfg, self.data_source, self.transform, self.is_train = cfg, data_source, transform, is_train
        self.k_tfm = cfg.DATALOADER.K_TRANSFORMS if is_train else 1
        self.return_img0 = cfg.DATALOADER.RETURN_IMG0
        self.to_tensor = plain_transform(cfg)
        self.seed, self.epoch = max(cfg.SEED, 0), 0
        self.skip_bad = cfg.DATASET.ON_BAD_IMAGE == "skip"
        if cfg.DATASET.ON_BAD_IMAGE not in ("error", "skip"):
            raise unknown_name("DATASET.ON_BAD_IMAGE", cfg.DATASET.ON_BAD_IMAGE, ("error", "skip"))
        if self.k_tfm > 1 and transform is None:
            raise UserError(f"DATALOADER.K_TRANSFORMS {self.k_tfm} needs a transform, INPUT.NO_TRANSFORM is set")

    def __len__(self):
        return len(self.data_source)

    def __getitem__(self, idx):
        self.epoch = getattr(idx, "epoch", self.epoch)
        item = self.data_source[idx]
        output = {"label": item.label, "domain": item.domain, "impath": item.impath, "index": int(idx)}
        try:
            image = item.image() if hasattr(item, "image") else read_image(item.impath)
        except UserError as error:
            if self.skip_bad:
                return {"bad": item.impath}
            return {"error": str(error)}
        if self.is_train and self.transform is not None:
            with _seeded(self.seed, self.epoch, idx):
                self._add_views(image, output)
        else:
            self._add_views(image, output)
        if self.return_img0:
            output["img0"] = self.to_tensor(image)
        return output

    def _add_views(self, image, output):
        if self.transform is None:
            output["img"] = image
        elif isinstance(self.transform, (list, tuple)):
            for i, transform in enumerate(self.transform):
                output[f"img{i + 1 if i else ''}"] = self._transform_image(transform, image)
        else:
            output["img"] = self._transform_image(self.transform, image)

    def _transform_image(self, tfm, img0):
        """A view of the image, a list of them where k_tfm is above 1; under upstream's name, as wrappers call it."""
        views = [tfm(img0) for _ in range(self.k_tfm)]
        return views if self.k_tfm > 1 else views[0]


class _seeded:
    """The three random generators set for one image, and put back afterwards."""

    def __init__(self, *numbers):
        self.seed = np.random.SeedSequence(numbers).generate_state(2)

    def __enter__(self):
        self.state = random.getstate(), np.random.get_state(), torch.get_rng_state()
        random.seed(int(self.seed[0]))
        np.random.seed(int(self.seed[0]))
        torch.manual_seed(int(self.seed[1]))

    def __exit__(self, *_):
        random.setstate(self.state[0])
        np.random.set_state(self.state[1])
        torch.set_rng_state(self.state[2])


class EpochIndex(int):
    """An index that knows its epoch; a wrapper of a plugin's own sees a whole number."""

    def __new__(cls, index, epoch=0):
        self = super().__new__(cls, index)
        self.epoch = epoch
        return self


class EpochSampler(torch.utils.data.Sampler):
    """Hands the epoch on with each index, so that persistent workers know it.

    epoch: of the next pass. Each pass takes the next one, so that a loop which never says its epoch sees new views too.
    """

    def __init__(self, sampler):
        self.sampler, self.epoch = sampler, 0

    def __iter__(self):
        epoch, self.epoch = self.epoch, self.epoch + 1
        return (EpochIndex(i, epoch) for i in self.sampler)

    def __len__(self):
        return len(self.sampler)


def collate(items):
    """default_collate without the images that could not be read (skip), or the first error of a batch (error).

    Items that are no dicts, as a plugin's wrapper may give them, are collated as they are.
    """
    if not isinstance(items[0], dict):
        return default_collate(items)
    for item in items:
        if "error" in item:
            return {"error": item["error"]}
    good = [i for i in items if "bad" not in i]
    batch = default_collate(good) if good else {}
    if skipped := [i["bad"] for i in items if "bad" in i]:
        batch["skipped"] = skipped
    return batch


class Batches(DataLoader):
    """A DataLoader whose batches are checked: unreadable images raise here, in the main process, or are counted."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.skipped = set()

    def __iter__(self):
        # A plain DataLoader draws its workers' seed here, but persistent workers only the first time; so the order
        # would depend on the number of workers, and a resumed run would differ. The loader has its own generator.
        torch.empty((), dtype=torch.int64).random_()
        for batch in super().__iter__():
            if not isinstance(batch, dict):
                yield batch
                continue
            if "error" in batch:
                raise UserError(batch["error"])
            for path in batch.pop("skipped", []):
                if path not in self.skipped:
                    self.skipped.add(path)
                    print(f"skipped unreadable image {path}")
            if batch:
                yield batch

    def set_epoch(self, epoch):
        """The epoch of the next pass; without it, the one after the last pass's."""
        if isinstance(self.sampler, EpochSampler):
            self.sampler.epoch = epoch


def _leave_interrupts_to_the_main_process(_):
    """Ctrl-C reaches every process of a terminal; a worker that died of it could not finish the step."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def build_data_loader(
    cfg,
    sampler_type="SequentialSampler",
    data_source=None,
    batch_size=64,
    n_domain=0,
    n_ins=2,
    tfm=None,
    is_train=True,
    dataset_wrapper=None,
    drop_last=None,
):
    """A loader over Datum lists; drops the last short batch only in training and only if there is a full one.

    drop_last: None for that rule, or a bool.
    """
    sampler = build_sampler(sampler_type, cfg, data_source, batch_size, n_domain, n_ins)
    wrapper = (dataset_wrapper or DatasetWrapper)(cfg, data_source, transform=tfm, is_train=is_train)
    workers = cfg.DATALOADER.NUM_WORKERS
    loader = Batches(
        wrapper,
        batch_size=batch_size,
        sampler=EpochSampler(sampler) if is_train else sampler,
        num_workers=workers,
        persistent_workers=workers > 0 and is_train,
        drop_last=is_train and len(data_source) >= batch_size if drop_last is None else drop_last,
        pin_memory=torch.cuda.is_available() and cfg.USE_CUDA,
        collate_fn=collate if tfm is not None else list,
        generator=torch.Generator().manual_seed(max(cfg.SEED, 0)),
        worker_init_fn=_leave_interrupts_to_the_main_process,
    )
    if len(loader) == 0:
        raise UserError(f"no batch: {len(data_source)} images at batch size {batch_size}")
    return loader


class DataManager:
    """dataset, train_loader_x, val_loader (None without val), test_loader; num_classes, lab2cname.

    held_out([Datum]): a loader of other images, as test's are loaded.
    """

    def __init__(self, cfg, custom_tfm_train=None, custom_tfm_test=None, dataset_wrapper=None):
        dataset = build_dataset(cfg)
        if getattr(dataset, "lateral", False) and "random_flip" in cfg.INPUT.TRANSFORMS and cfg.DATASET.FLIP:
            print("left and right mean something in this data set: no random flips")
            cfg = cfg.clone()
            cfg.defrost()
            cfg.DATASET.FLIP = False
        tfm_train = custom_tfm_train or build_transform(cfg, is_train=True)
        tfm_test = custom_tfm_test or build_transform(cfg, is_train=False)
        for part in ("train_x", "test"):
            if not getattr(dataset, part):
                raise UserError(f"dataset {cfg.DATASET.NAME} has no {part.removesuffix('_x')} images")
        dataset.keep_val_apart()
        x, test = cfg.DATALOADER.TRAIN_X, cfg.DATALOADER.TEST
        common = {"dataset_wrapper": dataset_wrapper}
        self.train_loader_x = build_data_loader(
            cfg, x.SAMPLER, dataset.train_x, x.BATCH_SIZE, x.N_DOMAIN, x.N_INS, tfm_train, True, **common
        )
        self.train_loader_u = None
        held_out = {"tfm": tfm_test, "is_train": False, **common}
        self.held_out = lambda items: build_data_loader(cfg, test.SAMPLER, items, test.BATCH_SIZE, **held_out)
        self.val_loader = self.held_out(dataset.val) if dataset.val else None
        self.test_loader = self.held_out(dataset.test)
        self.dataset, self.cfg = dataset, cfg
        self._num_source_domains = len(cfg.DATASET.SOURCE_DOMAINS)
        if cfg.VERBOSE:
            self.show_dataset_summary(cfg)

    @property
    def num_classes(self):
        return self.dataset.num_classes

    @property
    def num_source_domains(self):
        return self._num_source_domains

    @property
    def lab2cname(self):
        return self.dataset.lab2cname

    def show_dataset_summary(self, cfg):
        from tabulate import tabulate

        rows = [["Dataset", cfg.DATASET.NAME], ["# classes", self.num_classes]]
        rows.append(["# train_x", len(self.dataset.train_x)])
        if self.dataset.val:
            rows.append(["# val", len(self.dataset.val)])
        rows.append(["# test", len(self.dataset.test)])
        print(tabulate(rows))
