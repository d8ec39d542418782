"""Heat maps: they depend on what was learned, beat chance where the image is taken away, and disturb nothing."""

import copy
from types import SimpleNamespace

import pytest
import torch
from scipy.stats import spearmanr

from cilmp import trainers
from cilmp.backbones.factory import build, wrap
from cilmp.backbones.registry import OPENAI_MEAN, OPENAI_STD
from cilmp.inference import explain_maps as maps
from cilmp.tests.backbones.small_models import CONFIGS, images, small, tokenizer
from cilmp.tests.trainers import plain_methods as plain
from cilmp.tests.trainers.test_every_method import METHODS, learner
from cilmp.tests.trainers.test_features import config
from cilmp.trainers.zsclip import ZeroshotCLIP
from dassl.data.transforms import build_transform
from dassl.engine import build_trainer
from dassl.utils.errors import ConfigError
from dassl.utils.images import read_image

TOGETHER = {name for name, method in trainers.methods().items() if method.transductive}


def model_of(ours, method="ours", transductive=False):
    """What heat maps ask of a Model, of a learner."""
    ours.eval().requires_grad_(False)
    ours.clip.requires_grad_(False)
    trainer = SimpleNamespace(model=ours, clip=ours.clip)
    return SimpleNamespace(trainer=trainer, logits=ours, device=ours.clip.device, method=method,
                           transductive=transductive)  # fmt: skip


def zero_shot(clip):
    return model_of(plain.on(clip, ZeroshotCLIP, plain.NAMES))


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """(model, [16 normalised test images, on its device]) of the demo, zero-shot."""
    trainer = build_trainer(config(tmp_path_factory.mktemp("demo"), "ZeroshotCLIP", **{"DATASET.NUM_SHOTS": -1}))
    transform, items = build_transform(trainer.cfg, is_train=False), trainer.dm.dataset.test
    items = items[:: len(items) // 16][:16]
    return model_of(trainer.model), [transform(read_image(item.impath)).to(trainer.device) for item in items]


def best(model, image):
    with torch.no_grad():
        return int(model.logits(image[None]).argmax())


def similarity(model, other, pictures):
    """Mean rank correlation of two models' maps for the first model's answers; 0 with a map that is flat."""
    found = []
    for x in pictures:
        both = [maps.heat_maps(m, x, [best(model, x)]).flatten() for m in (model, other)]
        found.append(spearmanr(*both).statistic if all(m.max() > m.min() for m in both) else 0.0)
    return sum(found) / len(found)


def curves(model, pictures):
    """Mean deletion of the model's answers: by its map, in random order, by the map from its coldest place on."""
    found = []
    for x in pictures:
        c = best(model, x)
        heat = maps.heat_maps(model, x, [c])[0]
        by_map = [maps.deletion(model, x, h, c, 8) for h in (heat, -heat)]
        found.append([by_map[0], maps.deletion_at_random(model, x, c, 8, orders=3), by_map[1]])
    return torch.tensor(found).mean(0).tolist()


def randomised(clip, parts):
    """The same tower with the values of each weight of these parts shuffled."""
    with torch.no_grad():
        for number, p in enumerate(x for part in parts for x in part.parameters()):
            order = torch.randperm(p.numel(), generator=torch.Generator().manual_seed(number))
            p.copy_(p.flatten()[order].reshape(p.shape))
    return clip


def test_demo_maps_change_with_the_weights(demo, tmp_path):
    """Adebayo et al. 2018: a map that survives random weights shows edges, not the model."""
    model, pictures = demo
    again = build_trainer(config(tmp_path, "ZeroshotCLIP")).model
    assert similarity(model, model_of(again), pictures[:4]) > 0.999
    randomised(again.clip, again.clip.image.blocks)
    assert similarity(model, model_of(again), pictures[:8]) < 0.5


def test_demo_maps_beat_chance(demo):
    """Taken away by the map, an image loses its class sooner than in random order; coldest first, later."""
    by_map, random, reverse = curves(*demo)
    assert by_map < 0.9 * random < 0.9 * reverse


def discs(count, seed, side=128):
    """Images (count, 3, side, side) of noise with a disc anywhere, whose colour is the class (count,)."""
    g = torch.Generator().manual_seed(seed)
    x, y = torch.randn(count, 3, side, side, generator=g) / 2, torch.randint(4, (count,), generator=g)
    centre = torch.randint(side // 6, side - side // 6, (2, count, 1, 1), generator=g)
    step = torch.arange(side)
    inside = (step[:, None] - centre[0]) ** 2 + (step - centre[1]) ** 2 < (side // 6) ** 2
    colours = 2.0 * torch.tensor([[1, -1, -1], [-1, 1, -1], [-1, -1, 1], [1, 1, -1]])
    return torch.where(inside[:, None], x + colours[y][..., None, None], x), y


@pytest.fixture(scope="module")
def resnet():
    """A small ResNet that knows the four colours, after 40 steps."""
    config = copy.deepcopy(CONFIGS["resnet"])
    config["vision_cfg"]["image_size"] = 128
    facts = {"name": "resnet", "mean": OPENAI_MEAN, "std": OPENAI_STD, "interpolation": "bicubic"}
    ours = plain.on(wrap(build(config, None, 0), tokenizer("resnet"), facts), ZeroshotCLIP, plain.NAMES)
    weights = list(ours.clip.image.stem.train().requires_grad_(True).parameters())
    optimizer = torch.optim.AdamW(weights, lr=2e-3)
    for step in range(40):
        x, y = discs(16, step)
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(ours.logits(x), y).backward()
        optimizer.step()
    ours.clip.eval()
    return model_of(ours)


def test_resnet_maps_beat_chance(resnet):
    x, y = discs(16, 1000)
    assert [best(resnet, image) for image in x] == y.tolist()
    by_map, random, _ = curves(resnet, x)
    assert by_map < 0.9 * random


def test_resnet_maps_change_with_the_weights(resnet):
    pictures, other = discs(6, 1000)[0], copy.deepcopy(resnet.trainer.clip)
    assert similarity(resnet, zero_shot(other), pictures) > 0.999
    randomised(other, [other.image.stem])
    assert similarity(resnet, zero_shot(other), pictures) < 0.5


@pytest.mark.parametrize("method", sorted(set(METHODS) - TOGETHER))
def test_every_method(method, tmp_path):
    """A map of every class, the logits as without it, the towers as before."""
    ours = learner(method, "openai", tmp_path)
    if hasattr(ours, "fit"):
        features = torch.nn.functional.normalize(torch.randn(1, 4, ours.clip.embed_dim), dim=-1)
        ours.fit((features, torch.arange(4)), (features[0], torch.arange(4)))
    model, x = model_of(ours), plain.batch("openai")[0][0]
    if method == "TwoSFS":
        ours.start_second()
    before = model.logits(x[None])
    found = maps.heat_maps(model, x, [0, 1, 2, 3])
    assert found.shape == (4, 32, 32) and torch.isfinite(found).all() and found.min() >= 0
    assert (found.amax((1, 2)) > 0.99).all()
    assert torch.equal(model.logits(x[None]), before)
    left = [name for m in [ours.clip.image, *ours.clip.image.blocks] for name in ("mix", "_run") if name in vars(m)]
    assert not left and not ours.clip.image.stem._forward_hooks


@pytest.mark.parametrize("family", ["bert", "siglip", "clipa", "resnet", "convnext", "mobileclip"])
def test_every_tower(family):
    model, x = zero_shot(small(family)), images(family, 1)[0]
    first, second = maps.heat_maps(model, x, [0, 1])
    assert first.shape == x.shape[1:] and first.max() > 0.5 and not torch.equal(first, second)


def test_a_tower_that_shows_nothing():
    with pytest.raises(ConfigError, match="heat maps need a ViT"):
        maps.heat_maps(zero_shot(small("eva")), images("eva", 1)[0], [0])


@pytest.mark.parametrize("method", sorted(TOGETHER))
def test_answers_that_are_not_of_one_image(method, tmp_path):
    ours = learner(method, "openai", tmp_path)
    with pytest.raises(ConfigError, match=f"{method} answers all images of a call together"):
        maps.heat_maps(model_of(ours, method, transductive=True), plain.batch("openai")[0][0], [0])


def test_the_rule_written_out():
    """The map of a plain ViT is the paper's recursion over its blocks' own attention."""
    clip = small("openai")
    model, x = zero_shot(clip), images("openai", 1)[0]
    tower, kept = clip.image, []
    y = tower.pre_norm(tower.stem(x[None].requires_grad_()))
    for block in tower.blocks:
        z = block.ln1(y)
        q, k, v = (f(z).unflatten(-1, (block.heads, -1)).transpose(1, 2) for f in (block.q, block.k, block.v))
        kept.append((q @ k.mT / q.shape[-1] ** 0.5).softmax(-1))
        y = block._finish(y, (kept[-1] @ v).transpose(1, 2).flatten(-2))
    z = model.trainer.model.score(tower.head(y[:, :1]), model.trainer.model.text_features)
    odds = torch.log(z.softmax(-1)[0, 2]) - torch.log1p(-z.softmax(-1)[0, 2])
    R = torch.eye(17)
    for a, slope in zip(kept, torch.autograd.grad(odds, kept)):
        R = R + (slope * a).clamp(min=0)[0].mean(0) @ R
    wanted = R[0, 1:].reshape(4, 4).detach()
    found = torch.nn.functional.interpolate(wanted[None, None], size=(32, 32), mode="bilinear")[0, 0]
    assert (maps.heat_maps(model, x.detach(), [2])[0] - found / found.max()).abs().max() < 1e-4


def test_deletion_takes_a_map_and_an_image_of_two_devices():
    """As on a GPU: maps are handed out on the CPU, the image lies where the model is."""
    image = torch.zeros(3, 32, 32, device="meta")
    model = SimpleNamespace(logits=lambda batch: torch.zeros(len(batch), 2))
    assert maps.deletion(model, image, torch.rand(32, 32), 0) == maps.deletion_at_random(model, image, 0) == 0.5
