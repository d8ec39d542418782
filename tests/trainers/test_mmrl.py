"""MMRL: the official numbers, the plain form on every family, and which classes it takes the second feature for."""

import pytest
import torch
import torch.nn.functional as F

from cilmp.benchmarks.plain.image import plain_image_late
from cilmp.benchmarks.plain.text import plain_text_late
from cilmp.tests.official import peers
from cilmp.tests.trainers import plain_methods as plain
from cilmp.tests.trainers.test_features import config, own_cache, run  # noqa: F401 - a fixture
from cilmp.trainers.mmrl import MMRL
from dassl.engine import build_trainer
from dassl.utils.errors import ConfigError

FAMILIES = ("openai", "bert", "siglip")
SMALL = {"N_REP_TOKENS": 3, "REP_DIM": 24}


def official_names(ours):
    """{official name: (our tensor, transposed)}."""
    at = "representation_learner.compound_rep_tokens"
    found = {at: ours.tokens, "image_encoder.proj_rep": ours.project}
    for letter, maps in (("v", ours.to_image), ("t", ours.to_text)):
        for i, f in enumerate(maps):
            found |= {f"{at}_r2{letter}proj.{i}.weight": f.weight, f"{at}_r2{letter}proj.{i}.bias": f.bias}
    return found


@pytest.mark.parametrize(("case", "layers"), [("late", (2, 3)), ("early", (1, 2))])
def test_the_official_numbers(case, layers):
    """early: from the first layer on, and past layer 2 the tokens live on."""
    wanted = peers.numbers("mmrl")
    ours = plain.on(peers.clip(), MMRL, peers.CLASSES, **SMALL, REP_LAYERS=layers, REG_WEIGHT=0.5)
    names = official_names(ours)
    with torch.no_grad():
        for name, tensor in names.items():
            tensor.copy_(peers.learned(case, name, tensor.shape))
    x, y = peers.images(f"{case} images", 4), torch.arange(4)
    loss, fused = ours.loss(x, y)
    assert abs(loss - wanted[f"{case}/loss"]) < 1e-4
    gradients = dict(zip(names, torch.autograd.grad(loss, list(names.values()))))
    listed = [n.removeprefix(f"{case}/grad/") for n in wanted if n.startswith(f"{case}/grad/")]
    assert len(listed) == (len(names) if case == "late" else 1)
    for name in listed:
        assert plain.same(gradients[name], wanted[f"{case}/grad/{name}"], 1e-4), name
    ours.eval()
    with torch.no_grad():
        assert (fused - wanted[f"{case}/fused"]).abs().max() < 2e-4
        assert (ours(x) - wanted[f"{case}/fused"]).abs().max() < 2e-4
        ours.trained_on(peers.CLASSES, same_set=False)
        assert (ours(x) - wanted[f"{case}/logits"]).abs().max() < 2e-4


@pytest.mark.parametrize("family", FAMILIES)
def test_equals_the_plain_form(family):
    ours, (x, y) = plain.learner(MMRL, family, **SMALL), plain.batch(family)
    with torch.no_grad():
        for _, p in ours.named_trainables():
            p.copy_(torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())) * 0.3)
    learned = dict(ours.named_trainables())
    leaf = {n: plain.leaf(p) for n, p in learned.items()}

    def levels(which, count):
        return [leaf["tokens"] @ leaf[f"{which}.{i}.weight"].T + leaf[f"{which}.{i}.bias"] for i in range(count)]

    model = plain.original(family)
    ids = plain.tokenizer(family)([f"a photo of a {n}." for n in plain.NAMES], ours.clip.context_length)
    start = int(ours.clip.text.starts)
    w = plain_text_late(model, ids, levels("to_text", 3), 1, start)  # 4 layers: 2 to 4
    v, ends = plain_image_late(model, x, levels("to_image", 3), 0)  # 3 layers: 1 to 3
    r = ends.mean(1) @ leaf["project"]
    z_c, z_r = plain.logits(family, v, w), plain.logits(family, r, w)
    cos = lambda a, b: (F.normalize(a, dim=-1) * F.normalize(b, dim=-1)).sum(-1).mean()  # noqa: E731
    away = 2 - cos(v, plain.image(family, x)) - cos(w, plain.template(family))
    wanted = 0.7 * F.cross_entropy(z_c, y) + 0.3 * F.cross_entropy(z_r, y) + away
    plain.check_gradients(ours.loss(x, y)[0], list(learned.values()), wanted, list(leaf.values()))
    assert (ours(x) - (0.7 * z_c + 0.3 * z_r)).abs().max() < 1e-3


def test_counts_at_full_size():
    """4,992,256 at ViT-B/16: 5 tokens of 512 numbers, 7 layers of each tower."""
    assert 5 * 512 + 7 * 513 * (768 + 512) + 768 * 512 == 4_992_256
    ours = plain.learner(MMRL, **SMALL)
    assert plain.count(ours) == 3 * 24 + 3 * 25 * (32 + 48) + 48 * 24


@pytest.mark.parametrize("layers", [(2, 4), (0, 1), (3, 4), (2, 1)])
def test_layers_that_are_not_there(layers):
    with pytest.raises(ConfigError, match="consecutive numbers from 1 to"):
        plain.learner(MMRL, **SMALL, REP_LAYERS=layers)
    with pytest.raises(ConfigError, match="MMRL reaches into the blocks of a plain ViT"):
        plain.learner(MMRL, "resnet")


def test_the_second_feature_is_for_what_it_was_trained_on():
    """Half of the classes again: both features. One new class, or another data set: the class feature alone."""
    ours, (x, _) = plain.learner(MMRL, **SMALL).eval(), plain.batch("openai")
    both = ours(x)
    ours.trained_on([*plain.NAMES, "another"], same_set=True)
    assert torch.equal(ours(x), both)
    for classes, same_set in ((plain.NAMES[1:], True), (plain.NAMES, False)):
        ours.trained_on(classes, same_set)
        assert (ours(x) - both).abs().max() > 1e-2


def test_a_run_tells_its_classes_to_the_next(tmp_path):
    """The checkpoint knows its classes and data set: tested on them again it fuses, on new ones it does not."""
    options = {"INPUT.TRANSFORMS": ["random_flip", "normalize"], "DATASET.SUBSAMPLE_CLASSES": "base"}
    options |= {"OPTIM.NAME": "adamw", "OPTIM.LR": 1e-3, "OPTIM.MAX_EPOCH": 1}
    trained, _ = run(config(tmp_path / "base", "MMRL", **options))
    assert trained.model.fused
    for subset, fused in (("base", True), ("new", False)):
        other = build_trainer(config(tmp_path / subset, "MMRL", **options | {"DATASET.SUBSAMPLE_CLASSES": subset}))
        other.load_model(str(tmp_path / "base"))
        assert other.model.fused == fused
