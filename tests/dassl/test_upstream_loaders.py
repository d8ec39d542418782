"""Loaders and wrappers as plugins of the CoOp family use and replace them."""

import pytest
import torch
from torch.utils.data import DataLoader

from cilmp.tests.dassl.upstream_plugin import PluginCoOp
from dassl.data import DataManager, DatasetWrapper
from dassl.utils import set_random_seed


def test_loaders_are_dataloaders(make_cfg):
    dm = DataManager(make_cfg())
    for loader in (dm.train_loader_x, dm.val_loader, dm.test_loader):
        assert isinstance(loader, DataLoader) and isinstance(loader.dataset, DatasetWrapper)
    again = DataLoader(dm.test_loader.dataset, batch_size=5, collate_fn=dm.test_loader.collate_fn)
    assert sum(len(batch["label"]) for batch in again) == len(dm.dataset.test) == 12


class TwoViews(DatasetWrapper):
    """As consistency methods write it: the base class's parts under upstream's names."""

    def __getitem__(self, idx):
        from dassl.utils.tools import read_image

        item = self.data_source[idx]
        img0 = read_image(item.impath)
        first, second = (self._transform_image(self.transform, img0) for _ in range(2))
        views = [*first, *second] if self.k_tfm > 1 else [first, second]
        output = {"label": item.label, "views": torch.stack(views), "index": idx}
        return output | {"img0": self.to_tensor(img0)} if self.return_img0 else output


@pytest.mark.parametrize("k", [1, 3])
def test_a_wrapper_builds_on_upstreams_parts(make_cfg, k):
    dm = DataManager(make_cfg(DATALOADER__K_TRANSFORMS=k, DATALOADER__RETURN_IMG0=True), dataset_wrapper=TwoViews)
    batch = next(iter(dm.train_loader_x))
    assert batch["views"].shape == (8, 2 * k, 3, 16, 16) and batch["img0"].shape == (8, 3, 16, 16)
    assert batch["index"].dtype == torch.int64
    assert "img0" not in next(iter(DataManager(make_cfg(), dataset_wrapper=TwoViews).test_loader))


class Delegating(DatasetWrapper):
    def __getitem__(self, idx):
        assert isinstance(idx, int)
        return super().__getitem__(idx)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_wrapper_sees_other_views_each_epoch(make_cfg, workers):
    """Before: a wrapper that calls the base class got the views of epoch 0 in every epoch."""
    views = {}
    for wrapper in (None, Delegating):
        cfg = make_cfg(DATALOADER__NUM_WORKERS=workers, DATALOADER__TRAIN_X__SAMPLER="SequentialSampler")
        set_random_seed(1)
        loader = DataManager(cfg, dataset_wrapper=wrapper).train_loader_x
        views[wrapper] = [torch.cat([b["img"] for b in loader]) for _ in range(4)]
    assert not all(torch.equal(views[Delegating][0], later) for later in views[Delegating][1:])
    assert all(torch.equal(a, b) for a, b in zip(views[None], views[Delegating]))


class Pairs(DatasetWrapper):
    def __getitem__(self, idx):
        output = super().__getitem__(idx)
        return output["img"], output["label"]


class OfPairs(PluginCoOp):
    def build_data_loader(self):
        self.dm = dm = DataManager(self.cfg, dataset_wrapper=Pairs)
        self.train_loader_x, self.val_loader, self.test_loader = dm.train_loader_x, dm.val_loader, dm.test_loader
        self.num_classes, self.lab2cname = dm.num_classes, dm.lab2cname

    def parse_batch_train(self, batch):
        return [t.to(self.device) for t in batch]

    parse_batch_test = parse_batch_train


def test_a_wrapper_that_returns_tuples_trains_and_is_tested(make_cfg, tmp_path):
    import json

    set_random_seed(1)
    OfPairs(make_cfg(OPTIM__MAX_EPOCH=1)).train()
    result = json.loads((tmp_path / "run" / "results.json").read_text())
    assert result["n"] == 12 and result["cost"]["test_images_per_second"] > 1
