"""Adapters, probes, caches and prototypes on frozen features: plain forms, hand-worked values, promises."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression

from cilmp.tests.trainers import plain_methods as plain
from cilmp.tests.trainers.test_features import config, own_cache, run  # noqa: F401 - a fixture
from cilmp.trainers.clip_adapter import CLIPAdapter
from cilmp.trainers.linear_probe import LinearProbe, search
from cilmp.trainers.lp2 import LP2
from cilmp.trainers.ss_text import SSText
from cilmp.trainers.templates import IMAGENET, MEDICAL, SELECTED
from cilmp.trainers.tip_adapter import TipAdapter, TipAdapterF, grid
from cilmp.trainers.zsclip import ZeroshotCLIP
from cilmp.trainers.zsclip2 import ZeroshotCLIP2
from dassl.data.datasets import Datum
from dassl.utils.errors import ConfigError, UserError

FAMILIES = ["openai", "bert", "siglip", "resnet"]
COUNTS = (3, 1, 2, 2)  # training images of plain.NAMES


def labels(counts=COUNTS):
    return torch.tensor([c for c, n in enumerate(counts) for _ in range(n)])


def features(n, d, seed=0):
    g = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(n, d, generator=g), dim=-1)


def make(method, family="openai", counts=COUNTS, epochs=20, **options):
    items = [Datum("x.png", int(y), 0, plain.NAMES[y]) for y in labels(counts)]
    context = plain.context(train_x=items)
    context.cfg.OPTIM = type("Optim", (), {"MAX_EPOCH": epochs})
    return plain.learner(method, family, context=context, **options)


def fitted(method, val=False, counts=COUNTS, **options):
    ours = make(method, counts=counts, **options)
    y = labels(counts)
    x = features(len(y), ours.clip.embed_dim)
    held = (features(9, ours.clip.embed_dim, seed=5), torch.arange(9) % 4) if val else None
    ours.fit((x[None], y), held)
    return ours, x, y, held


# ---- ensembles

@pytest.mark.parametrize("family", FAMILIES)
def test_ensemble_is_the_mean_of_unit_features(family):
    ours, (x, _) = plain.learner(ZeroshotCLIP2, family), plain.batch(family)
    assert len(SELECTED) == 7 and len(IMAGENET) == 80 and set(SELECTED) <= set(IMAGENET)
    t = sum(plain.template(family, s) for s in [*SELECTED, "a photo of a {}."]) / 8
    assert (ours(x) - plain.logits(family, plain.image(family, x), t)).abs().max() < 1e-4


def test_ensembles_by_name_and_written_out():
    x, _ = plain.batch("openai")
    one, zero = plain.learner(ZeroshotCLIP2, TEMPLATES="a photo of a {}."), plain.learner(ZeroshotCLIP)
    assert (one(x) - zero(x)).abs().max() < 1e-5
    written = plain.learner(ZeroshotCLIP2, TEMPLATES="; ".join(MEDICAL))
    assert (written(x) - plain.learner(ZeroshotCLIP2, TEMPLATES="medical")(x)).abs().max() < 1e-5
    with pytest.raises(UserError, match="template set"):
        plain.learner(ZeroshotCLIP2, TEMPLATES="medicla")


# ---- CLIP-Adapter

@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("renorm", [True, False])
def test_clip_adapter_equals_the_plain_form(family, renorm):
    ours, (x, y) = plain.learner(CLIPAdapter, family, RENORM=renorm, RATIO=0.3), plain.batch(family)
    w1, w2 = (plain.leaf(p) for p in ours.adapter.parameters())
    v, t = F.normalize(plain.image(family, x), dim=-1), plain.template(family)
    mixed = 0.3 * F.relu(F.relu(v @ w1.T) @ w2.T) + 0.7 * v
    mixed = F.normalize(mixed, dim=-1) if renorm else mixed
    wanted = F.cross_entropy(plain.original(family).logit_scale.exp() * mixed @ t.T, y)
    plain.check_gradients(ours.loss(x, y)[0], list(ours.adapter.parameters()), wanted, [w1, w2])
    d = ours.clip.embed_dim
    assert plain.count(ours) == 2 * d * (d // 4)


def test_clip_adapter_without_its_share_is_zero_shot_and_serves_other_classes():
    x, _ = plain.batch("openai")
    ours = plain.learner(CLIPAdapter, RATIO=0.0)
    assert (ours(x) - plain.learner(ZeroshotCLIP)(x)).abs().max() < 1e-5
    other = plain.learner(CLIPAdapter, names=["cataract", "glaucoma"])
    other.load_checkpoint_state(ours.checkpoint_state())
    assert other(x).shape == (3, 2)


# ---- linear probe

def test_linear_probe_is_scikit_learns():
    ours, x, y, _ = fitted(LinearProbe, C=3.0)
    wanted = LogisticRegression(C=3.0, max_iter=1000).fit(x.numpy(), y.numpy())
    test = features(6, x.shape[1], seed=9)
    assert np.allclose(ours(test).softmax(-1).detach(), wanted.predict_proba(test.numpy()), atol=1e-5)
    assert plain.count(ours) == 4 * (ours.clip.embed_dim + 1)


def test_linear_probe_with_two_seen_classes_never_answers_the_others():
    ours, x, y, _ = fitted(LinearProbe, counts=(3, 0, 0, 4))
    wanted = LogisticRegression(max_iter=1000).fit(x.numpy(), y.numpy())
    probability = ours(x).softmax(-1).detach()
    assert np.allclose(probability[:, [0, 3]], wanted.predict_proba(x.numpy()), atol=1e-5)
    assert probability[:, [1, 2]].max() < 1e-6


def test_search_takes_a_strength_that_is_best_on_val():
    """Labels by the sign of a small but reliable feature, drowned by a large one that misleads a strong fit."""
    g = torch.Generator().manual_seed(0)
    x, val = (torch.randn(40, 6, generator=g) for _ in range(2))
    y, val_y = (x[:, 0] > 0).long(), (val[:, 0] > 0).long()
    best = search(x.numpy(), y.numpy(), val.numpy(), val_y.numpy(), 8)
    score = lambda c: LogisticRegression(C=c, max_iter=1000).fit(x, y).score(val, val_y)  # noqa: E731
    assert score(best) >= max(map(score, (1e6, 1e2, 1.0, 1e-2, 1e-6))) > score(1e-6) - 1e-9


# ---- LP++

@pytest.mark.parametrize("total", [False, True])
def test_lp2_follows_its_steps(total):
    """Twelve epochs by hand: momentum steps of W and b, one step of alpha after the tenth."""
    ours, x, y, _ = fitted(LP2, epochs=12, SUM_ALPHA_GRADIENTS=total)
    start = make(LP2)
    t, b = plain.template("openai"), start.bias.detach().clone()
    w = torch.stack([x[y == c].sum(0) for c in range(4)])
    alpha = torch.full((4,), 250 * torch.stack([(x[y == c] @ t[c]).mean() for c in range(4)]).mean())
    rate = 4 * 8 / torch.linalg.eigvalsh(x.T @ x).max()
    alpha_rate = 8 / (4 * max(((x @ t[c]) ** 2).sum() for c in range(4)))
    moved_w, moved_b, gradients = torch.zeros_like(w), torch.zeros_like(b), []
    for epoch in range(12):
        p = (x @ w.T + b + alpha * (x @ t.T)).softmax(-1)
        d = (p - F.one_hot(y, 4)) / 8
        gradients.append((d * (x @ t.T)).sum(0))
        moved_w, moved_b = 0.9 * moved_w + d.T @ x, 0.9 * moved_b + d.sum(0)
        w, b = w - rate * moved_w, b - rate * moved_b
        if epoch == 9:
            alpha = alpha - alpha_rate * (sum(gradients) if total else gradients[-1])
    for own, wanted in ((ours.weight, w), (ours.bias, b), (ours.alpha, alpha)):
        assert plain.same(own.detach(), wanted, 1e-3)
    assert plain.count(ours) == 4 * (ours.clip.embed_dim + 2)


def test_lp2_rate_by_shots_and_best_on_val():
    ours, x, _, held = fitted(LP2, val=True, STEP="shots", ETA=2.0)
    assert float(ours.rates(x, 2)[0]) == pytest.approx(2 * math.log(3))
    last, *_ = fitted(LP2, STEP="shots", ETA=2.0)
    assert ours.accuracy(*held) >= last.accuracy(*held)
    with pytest.raises(ConfigError, match="choose data or shots"):
        fitted(LP2, STEP="some")


# ---- Tip-Adapter

@pytest.mark.parametrize("family", FAMILIES)
def test_tip_adapter_equals_the_plain_form(family):
    ours, (x, _) = make(TipAdapter, family, INIT_ALPHA=1.7, INIT_BETA=2.5), plain.batch(family)
    views = torch.stack([length * features(8, ours.clip.embed_dim, seed=s) for s, length in ((1, 1.0), (2, 3.0))])
    ours.fit((views, labels()), None)  # a view counts as its feature is long: averaged first, then normalised
    v, keys = F.normalize(plain.image(family, x), dim=-1), F.normalize((views[0] + views[1]) / 2, dim=-1)
    cache = torch.zeros(3, 4)
    for i, c in enumerate(labels()):
        cache[:, c] += 1.7 * torch.exp(-2.5 * (1 - v @ keys[i]))
    assert (ours(x) - plain.logits(family, v, plain.template(family)) - cache).abs().max() < 1e-4


def test_tip_adapter_without_its_cache_is_zero_shot():
    ours, *_ = fitted(TipAdapter, INIT_ALPHA=0.0)
    x, _ = plain.batch("openai")
    assert (ours(x) - plain.learner(ZeroshotCLIP)(x)).abs().max() < 1e-5
    assert plain.count(ours) == 0 and set(ours.checkpoint_state()) == {"keys", "blend"}


def test_the_grid_is_searched_on_val():
    assert grid(50, 200)[:2] == pytest.approx([0.1, 0.3495]) and len(grid(50, 20)) == 20 and max(grid(50, 20)) < 50
    ours, _, _, (x, y) = fitted(TipAdapter, val=True, SEARCH_STEP=(8, 5))
    affinity, text = x @ ours.keys.T, ours.clip.scale() * x @ ours.text_features.T
    score = lambda a, b: (ours.mixed(affinity, text, a, b).argmax(-1) == y).float().mean()  # noqa: E731
    best = max(score(a, b) for a in [1.0, *grid(50, 5)] for b in [1.0, *grid(50, 8)])
    assert score(*ours.blend) >= best - 1e-6 and score(*ours.blend) >= score(1.0, 1.0)


def test_tip_adapter_f_trains_its_keys_and_nothing_else(tmp_path):
    options = {"OPTIM.NAME": "adamw", "OPTIM.LR": 0.001, "TRAINER.TIPADAPTERF.AUGMENT_EPOCH": 2,
               "INPUT.TRANSFORMS": ["random_flip", "normalize"]}  # fmt: skip
    trainer, state = run(config(tmp_path / "f", "TipAdapterF", **options))
    other = {k.replace("TIPADAPTERF", "TIPADAPTER"): v for k, v in options.items()}
    plainly, start = run(config(tmp_path / "t", "TipAdapter", **other))
    assert [n for n, _ in trainer.model.named_trainables()] == ["keys"] and plain.count(trainer.model) == 24 * 128
    moved = (state["keys"] - start["keys"]).norm(dim=-1)
    assert moved.min() > 1e-4 and moved.max() < 0.5
    assert torch.equal(trainer.model.values, plainly.model.values)


@pytest.mark.parametrize("method", ["TipAdapter", "TipAdapterF"])
def test_keys_are_the_normalised_mean_of_the_views_features(method, tmp_path):
    """As the official code: features of all views are averaged, then normalised once."""
    options = {"INPUT.TRANSFORMS": ["random_resized_crop", "random_flip", "normalize"], "OPTIM.MAX_EPOCH": 1}
    options |= {f"TRAINER.{method.upper()}.AUGMENT_EPOCH": 3, "OPTIM.LR": 1e-9}
    trainer, state = run(config(tmp_path / "a", method, **options))
    views = torch.stack([trainer.features("train_loader_x", e) for e in range(3)])
    lengths = views.norm(dim=-1)
    assert ((lengths.amax(0) / lengths.amin(0)) > 1.02).any()  # else the order would not matter
    assert (state["keys"] - F.normalize(views.mean(0), dim=-1)).abs().max() < 1e-6
    assert (state["keys"] - F.normalize(F.normalize(views, dim=-1).mean(0), dim=-1)).abs().max() > 1e-4


@pytest.mark.parametrize("method", [LinearProbe, LP2, SSText])
def test_fits_to_unit_features_whatever_the_length(method):
    ours, x, y, _ = fitted(method)
    long, *_ = (make(method),)
    long.fit((x[None] * torch.linspace(1, 9, len(x))[:, None], y), None)
    for name, value in ours.checkpoint_state().items():
        assert (value - long.checkpoint_state()[name]).abs().max() < 1e-3, name


# ---- SS-Text

def test_prototypes_by_hand():
    ours, x, y, _ = fitted(SSText, PLUS=False)
    s, t = float(ours.clip.scale()), plain.template("openai")
    w = torch.stack([s * x[y == c].sum(0) + t[c] for c in range(4)])
    assert (ours.prototypes - w).abs().max() < 1e-4
    plus, *_ = fitted(SSText, counts=(3, 0, 2, 3), PLUS=True)
    y = labels((3, 0, 2, 3))
    w = torch.stack([int((y == c).sum()) / 8 * s * x[y == c].sum(0) + t[c] for c in range(4)])
    u = 2 * w - w.mean(0)
    assert (plus.prototypes - (w - u / u.norm(dim=-1, keepdim=True))).abs().max() < 1e-4
    assert plain.count(plus) == 4 * plus.clip.embed_dim


# ---- all of them

@pytest.mark.parametrize("method", [LinearProbe, LP2, TipAdapter, TipAdapterF, SSText])
def test_what_belongs_to_classes_says_so(method):
    ours, *_ = fitted(method)
    bound = method.learner.bound_to_classes(ours.node)
    state = {k: v[:-1] if k in bound else v for k, v in ours.checkpoint_state().items()}
    with pytest.raises(UserError, match="learned for other classes"):
        make(method).load_checkpoint_state(state)


@pytest.mark.parametrize("method", [LinearProbe, LP2, TipAdapter, SSText])
def test_a_class_without_images_is_no_crash(method):
    ours, *_ = fitted(method, counts=(3, 0, 2, 3), val=True)
    assert torch.isfinite(ours(plain.batch("openai")[0])).all()


@pytest.mark.parametrize("method", ["CLIPAdapter", "LinearProbe", "LP2", "TipAdapter", "SSText"])
def test_demo_run_and_its_checkpoint(tmp_path, method):
    trainer, state = run(config(tmp_path / "a", method))
    x = torch.randn(2, 3, 64, 64)
    before = trainer.model_inference(x)
    with torch.no_grad():
        for value in trainer.model.checkpoint_state():
            dict(trainer.model.named_parameters()).get(value, torch.zeros(1)).zero_()
    trainer.load_model(str(tmp_path / "a"))
    assert torch.equal(trainer.model_inference(x), before) and state
