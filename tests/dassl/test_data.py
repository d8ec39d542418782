"""Sampling lists, samplers, transforms, loaders, hashes."""

import random
import zipfile
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from dassl.config import get_cfg_default
from dassl.data import DataManager
from dassl.data.datasets import DATASET_REGISTRY, DatasetBase, Datum, build_dataset, set_fallback
from dassl.data.hashing import split_hashes
from dassl.data.samplers import build_sampler
from dassl.data.transforms import build_transform
from dassl.utils import UserError


def items(labels, domain=0):
    return [Datum(f"/d/{i}.png", y, domain, f"class {y}") for i, y in enumerate(labels)]


def test_few_shots_by_random_sample_in_order_of_first_appearance():
    """Classes 2, 0, 1 as they appear; class 1 is short, so it is taken whole and draws nothing."""
    source = items([2, 0, 2, 1, 0, 2, 0])
    random.seed(7)
    wanted = random.sample([source[0], source[2], source[5]], 2) + random.sample([source[1], source[4], source[6]], 2)
    random.seed(7)
    assert DatasetBase(source, test=source).generate_fewshot_dataset(source, num_shots=2) == [*wanted, source[3]]


def test_few_shots_draw_train_before_val_from_one_stream():
    train, val = items([0] * 9), items([0] * 5)
    random.seed(3)
    wanted = random.sample(train, 4), random.sample(val, 4)
    random.seed(3)
    assert tuple(DatasetBase(train).generate_fewshot_dataset(train, val, num_shots=4)) == wanted
    assert DatasetBase(train).generate_fewshot_dataset(train, num_shots=-1) is train
    assert len(DatasetBase(train).generate_fewshot_dataset(items([0, 0]), num_shots=5, repeat=True)) == 5


def test_class_table_and_domains():
    base = DatasetBase(train_x=items([1, 0, 1]), test=items([0]))
    assert (base.num_classes, base.lab2cname, base.classnames) == (
        2,
        {0: "class 0", 1: "class 1"},
        ["class 0", "class 1"],
    )
    with pytest.raises(UserError, match="label 0 has two class names: 'a', 'b'"):
        DatasetBase(train_x=[Datum("x", 0, 0, "a"), Datum("y", 0, 0, "b")])
    with pytest.raises(ValueError, match="not one of"):
        base.check_input_domains(["photo"], [])
    with pytest.raises(TypeError):
        Datum(3)
    assert list(base.split_dataset_by_label(items([1, 0]))) == [1, 0]


def test_class_and_domain_samplers():
    random.seed(0)
    order = list(build_sampler("RandomClassSampler", None, items([0] * 4 + [1] * 4 + [2]), 4, n_ins=2))
    for i in range(0, len(order), 4):
        labels = [([0] * 4 + [1] * 4 + [2])[j] for j in order[i : i + 4]]
        assert labels[0] == labels[1] != labels[2] == labels[3]
    two = [Datum(str(i), 0, i % 2, "a") for i in range(10)]
    order = list(build_sampler("SeqDomainSampler", None, two, 4, n_domain=0))
    assert [i % 2 for i in order[:4]] == [0, 0, 1, 1] and len(order) == 8
    with pytest.raises(UserError, match="multiple of the 2 domains"):
        build_sampler("RandomDomainSampler", None, two, 3)
    with pytest.raises(UserError, match="did you mean 'RandomSampler'"):
        build_sampler("RandomSample", None, two)


def input_cfg(**settings):
    cfg = get_cfg_default()
    cfg.INPUT.SIZE = (8, 8)
    for key, value in settings.items():
        cfg.INPUT[key] = value
    return cfg


def test_test_transform_resizes_the_short_side_and_crops_the_middle():
    image = Image.new("RGB", (16, 8), (0, 0, 0))
    image.paste((255, 255, 255), (4, 0, 12, 8))  # the middle square is white
    x = build_transform(input_cfg(NO_NORMALIZE=True), is_train=False)(image)
    assert x.shape == (3, 8, 8) and torch.equal(x, torch.ones(3, 8, 8))
    cfg = input_cfg(TRANSFORMS=("normalize",), PIXEL_MEAN=[0.5, 0.5, 0.5], PIXEL_STD=[0.5, 0.25, 1.0])
    x = build_transform(cfg, is_train=False)(image)
    assert x.amax((1, 2)).tolist() == [1, 2, 0.5]


@pytest.mark.parametrize(
    "choice",
    ["random_flip", "random_resized_crop", "random_crop", "random_translation", "cutout", "imagenet_policy",
     "cifar10_policy", "svhn_policy", "randaugment", "randaugment2", "randaugment_fixmatch", "gaussian_noise",
     "colorjitter", "randomgrayscale", "gaussian_blur", "instance_norm", "center_crop", "normalize"],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore")
def test_every_train_choice_gives_an_image(choice):
    x = build_transform(input_cfg(GB_K=3, CUTOUT_LEN=4), choices=[choice])(Image.new("RGB", (20, 12), (90, 60, 30)))
    assert x.shape == (3, 8, 8) and x.dtype == torch.float32 and torch.isfinite(x).all()


@pytest.mark.parametrize("is_train", [True, False])
@pytest.mark.parametrize("choices", [(), ("random_flip",), ("random_flip", "normalize")])
def test_images_are_normalised_unless_the_configuration_says_no(choices, is_train, tmp_path):
    """Grey 0.5: the backbone's mean and deviation are taken away, whatever INPUT.TRANSFORMS holds."""
    image = Image.new("RGB", (8, 8), (102, 102, 102))
    cfg = input_cfg(TRANSFORMS=choices, PIXEL_MEAN=[0.2, 0.4, 0.6], PIXEL_STD=[0.1, 0.2, 0.4])
    wanted = torch.tensor([2.0, 0.0, -0.5])[:, None, None].expand(3, 8, 8)
    assert torch.allclose(build_transform(cfg, is_train=is_train)(image), wanted, atol=1e-6)
    cfg.INPUT.NO_NORMALIZE = True
    assert torch.allclose(build_transform(cfg, is_train=is_train)(image), torch.full((3, 8, 8), 0.4))


@pytest.mark.parametrize("no", [True, False])
def test_the_untouched_image_is_normalised_as_the_others(no, tmp_path, monkeypatch):
    monkeypatch.setitem(DATASET_REGISTRY._objects, "Halves", reader(tmp_path))
    cfg = input_cfg(TRANSFORMS=(), NO_NORMALIZE=no)
    cfg.DATASET.NAME, cfg.VERBOSE, cfg.DATALOADER.NUM_WORKERS = "Halves", False, 0
    cfg.DATALOADER.RETURN_IMG0 = True
    batch = next(iter(DataManager(cfg).train_loader_x))
    assert torch.allclose(batch["img0"], batch["img"]) and (batch["img"].min() < 0) == (not no)


@pytest.mark.parametrize("size", [(0, 0), (8, -1), (8,), (8, 8, 8), (8.5, 8), ("a", "b")])
@pytest.mark.parametrize("is_train", [True, False])
def test_an_image_size_that_is_none_is_one_line(size, is_train):
    with pytest.raises(UserError, match=r"INPUT\.SIZE .* height and width in whole pixels"):
        build_transform(input_cfg(SIZE=size), is_train=is_train)


def test_noise_has_its_mean_and_deviation_and_may_leave_the_range_of_pixels():
    cfg = input_cfg(SIZE=(64, 64), TRANSFORMS=("gaussian_noise",), GN_MEAN=0.5, GN_STD=0.2, NO_NORMALIZE=True)
    transform, white = build_transform(cfg), Image.new("RGB", (64, 64), (255, 255, 255))
    torch.manual_seed(0)
    means = [float(transform(white).mean()) for _ in range(40)]
    noisy = [m for m in means if m > 1.1]
    assert 10 < len(noisy) < 30 and all(abs(m - 1) < 1e-6 for m in means if m not in noisy)
    assert all(abs(m - 1.5) < 0.02 for m in noisy)
    cfg.INPUT.GN_MEAN = 0.0
    deviations = [float(build_transform(cfg)(white).std()) for _ in range(10)]
    assert any(abs(d - 0.2) < 0.02 for d in deviations) and any(d < 1e-6 for d in deviations)


def test_unknown_transform_and_none():
    with pytest.raises(UserError, match="did you mean 'random_flip'"):
        build_transform(input_cfg(TRANSFORMS=("random_flop",)))
    with pytest.raises(UserError, match=r"INPUT.INTERPOLATION 'bicubi' - did you mean 'bicubic'"):
        build_transform(input_cfg(INTERPOLATION="bicubi"))
    assert build_transform(input_cfg(NO_TRANSFORM=True)) is None


def reader(root, **attributes):
    """A set in the registry of this test alone: a bright left half, so that a flip shows."""

    class Halves(DatasetBase):
        def __init__(self, cfg):
            path = str(root / "half.png")
            image = Image.new("RGB", (8, 8), (0, 0, 0))
            image.paste((255, 255, 255), (0, 0, 4, 8))
            image.save(path)
            data = [Datum(path, 0, 0, "left")] * 32
            super().__init__(train_x=data, test=data[:2])

    for name, value in attributes.items():
        setattr(Halves, name, value)
    return Halves


@pytest.mark.parametrize("lateral", [False, True])
def test_sides_that_mean_something_are_not_flipped(tmp_path, lateral, monkeypatch):
    monkeypatch.setitem(DATASET_REGISTRY._objects, "Halves", reader(tmp_path, lateral=lateral))
    cfg = input_cfg(TRANSFORMS=("random_flip",), NO_NORMALIZE=True)
    cfg.DATASET.NAME, cfg.VERBOSE, cfg.DATALOADER.NUM_WORKERS = "Halves", False, 0
    batch = next(iter(DataManager(cfg).train_loader_x))
    flipped = (batch["img"][:, 0, 0, 0] == 0).sum().item()
    assert (flipped == 0) if lateral else (6 <= flipped <= 26)


def test_val_that_is_test_chooses_nothing(tmp_path, monkeypatch, capsys):
    """As CoOp's ImageNet and the official CILMP's readers give it."""

    class Same(reader(tmp_path)):
        def __init__(self, cfg):
            super().__init__(cfg)
            self._val = self._test

    monkeypatch.setitem(DATASET_REGISTRY._objects, "Same", Same)
    cfg = input_cfg()
    cfg.DATASET.NAME, cfg.VERBOSE, cfg.DATALOADER.NUM_WORKERS = "Same", False, 0
    dm = DataManager(cfg)
    assert dm.val_loader is None and not dm.dataset.val and len(dm.dataset.test) == 2
    assert "2 of 2 val images are test images: val is left out" in capsys.readouterr().out


def test_batch_keys_views_and_untouched_image(tmp_path, monkeypatch):
    monkeypatch.setitem(DATASET_REGISTRY._objects, "Halves", reader(tmp_path))
    cfg = input_cfg(TRANSFORMS=("random_flip",))
    cfg.DATASET.NAME, cfg.VERBOSE, cfg.DATALOADER.NUM_WORKERS = "Halves", False, 0
    cfg.DATALOADER.K_TRANSFORMS, cfg.DATALOADER.RETURN_IMG0 = 2, True
    dm = DataManager(cfg)
    batch = next(iter(dm.train_loader_x))
    assert {"img", "label", "domain", "impath", "index", "img0"} <= set(batch) and len(batch["img"]) == 2
    assert batch["img0"].shape == (32, 3, 8, 8) and dm.val_loader is None and dm.train_loader_u is None
    assert (dm.num_classes, dm.lab2cname, dm.num_source_domains) == (1, {0: "left"}, 0)


def passes(loader, count):
    """The flips (32,) of `count` passes over a loader of the bright halves, in the images' order."""
    seen = []
    for _ in range(count):
        batch = next(iter(loader))
        order = batch["index"].argsort()
        seen.append((batch["img"][order, 0, 0, 0] == 0).tolist())
    return seen


@pytest.mark.parametrize("workers", [0, 2])
def test_each_pass_over_a_training_loader_sees_other_views(workers, tmp_path, monkeypatch):
    """A loop that never calls set_epoch sees epochs 0, 1, 2; one that calls it sees the epoch it names."""
    monkeypatch.setitem(DATASET_REGISTRY._objects, "Halves", reader(tmp_path))
    cfg = input_cfg(TRANSFORMS=("random_flip",), NO_NORMALIZE=True)
    cfg.DATASET.NAME, cfg.VERBOSE, cfg.DATALOADER.NUM_WORKERS, cfg.SEED = "Halves", False, workers, 1
    alone = passes(DataManager(cfg).train_loader_x, 3)
    assert alone[0] != alone[1] != alone[2] != alone[0]
    loader, told = DataManager(cfg).train_loader_x, []
    for epoch in (0, 1, 2, 1):
        loader.set_epoch(epoch)
        told += passes(loader, 1)
    assert told == [*alone, alone[1]]
    assert passes(loader, 1) == [alone[2]]  # after the epoch that was named


def test_names_outside_the_registry_go_to_the_fallback(monkeypatch):
    import dassl.data.datasets.build as place

    monkeypatch.setattr(place, "_fallback", None)
    cfg = get_cfg_default()
    cfg.DATASET.NAME, cfg.VERBOSE = "my folder", False
    with pytest.raises(UserError, match="unknown dataset 'my folder'"):
        build_dataset(cfg)
    set_fallback(lambda name, cfg: lambda cfg: f"read {name}")
    assert build_dataset(cfg) == "read my folder"


def test_hashes_do_not_depend_on_where_the_data_lies():
    def data(root, label=0):
        part = [Datum(f"{root}/a/1.png", label, 0, "x"), Datum(f"{root}/b/2.png", 1, 0, "y")]
        return SimpleNamespace(train_x=part, val=None, test=part[:1], root_dir=root)

    assert split_hashes(data("/one")) == split_hashes(data("/two/three"))
    assert split_hashes(data("/one"))["train_sha256"] != split_hashes(data("/one", label=2))["train_sha256"]


def test_archives_do_not_write_outside_their_folder(tmp_path):
    (tmp_path / "in").mkdir()
    with zipfile.ZipFile(tmp_path / "in" / "x.zip", "w") as archive:
        archive.writestr("../out.txt", "no")
    with pytest.raises(UserError, match="outside"):
        DatasetBase(items([0])).download_data("", str(tmp_path / "in" / "x.zip"))
    assert not (tmp_path / "out.txt").exists()
