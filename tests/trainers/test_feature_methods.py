"""Adapters, probes, caches and prototypes on frozen features: plain forms, hand-worked values, promises."""

import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression

from cilmp.tests.backbones.small_models import small, tokenizer
from cilmp.tests.trainers import plain_methods as plain
from cilmp.tests.trainers.test_features import config, own_cache, run  # noqa: F401 - a fixture
from cilmp.trainers.clap import CLAP
from cilmp.trainers.clip_adapter import CLIPAdapter
from cilmp.trainers.cross_modal import CrossModal, Mirrored, draws
from cilmp.trainers.linear_probe import LinearProbe, search
from cilmp.trainers.lp2 import LP2
from cilmp.trainers.ss_text import SSText
from cilmp.trainers.task_res import TaskRes
from cilmp.trainers.templates import IMAGENET, MEDICAL, SELECTED
from cilmp.trainers.tip_adapter import TipAdapter, TipAdapterF, grid
from cilmp.trainers.transclip import TransCLIP, TransCLIPFS
from cilmp.trainers.zsclip import ZeroshotCLIP
from cilmp.trainers.zsclip2 import ZeroshotCLIP2
from dassl.data.datasets import Datum
from dassl.data.transforms import build_transform
from dassl.engine import build_trainer
from dassl.utils.errors import ConfigError, UserError
from dassl.utils.images import read_image

FAMILIES = ["openai", "bert", "siglip", "resnet"]
COUNTS = (3, 1, 2, 2)  # training images of plain.NAMES


def labels(counts=COUNTS):
    return torch.tensor([c for c, n in enumerate(counts) for _ in range(n)])


def features(n, d, seed=0):
    g = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(n, d, generator=g), dim=-1)


def items_of(y):
    return [Datum("x.png", int(c), 0, plain.NAMES[c]) for c in y]


def make(method, family="openai", counts=COUNTS, epochs=20, val=False, **options):
    held = items_of(torch.arange(9) % 4) if val else []
    context = plain.context(train_x=items_of(labels(counts)), val=held, epochs=epochs)
    return plain.learner(method, family, context=context, **options)


def fitted(method, val=False, counts=COUNTS, **options):
    ours = make(method, counts=counts, val=val, **options)
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
    keys = state["keys"].cpu()
    views = torch.stack([trainer.features("train_loader_x", e) for e in range(3)])
    lengths = views.norm(dim=-1)
    assert ((lengths.amax(0) / lengths.amin(0)) > 1.02).any()  # else the order would not matter
    assert (keys - F.normalize(views.mean(0), dim=-1)).abs().max() < 1e-6
    assert (keys - F.normalize(F.normalize(views, dim=-1).mean(0), dim=-1)).abs().max() > 1e-4


@pytest.mark.parametrize("method", [LinearProbe, LP2, SSText, CLAP])
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


# ---- TaskRes, CLAP, cross-modal linear probe

def raw_text(family="openai", sentence="a photo of a {}."):
    """(C, d), as long as the tower makes it."""
    ids = tokenizer(family)([sentence.format(n) for n in plain.NAMES], small(family).context_length)
    with torch.no_grad():
        return plain.original(family).encode_text(ids)


@pytest.mark.parametrize("family", FAMILIES)
def test_task_res_equals_the_plain_form(family):
    ours, (x, y) = plain.learner(TaskRes, family, ALPHA=0.3), plain.batch(family)
    with torch.no_grad():
        ours.residual.normal_()
    residual = plain.leaf(ours.residual)
    logits = plain.logits(family, plain.image(family, x), raw_text(family) + 0.3 * residual)
    plain.check_gradients(ours.loss(x, y)[0], [ours.residual], F.cross_entropy(logits, y), [residual])
    assert plain.count(ours) == 4 * ours.clip.embed_dim


@pytest.mark.parametrize("method", [TaskRes, CLAP, CrossModal])
def test_what_starts_at_the_text_starts_as_zero_shot(method):
    x, _ = plain.batch("openai")
    ours = make(method)
    assert (ours(x) - plain.learner(ZeroshotCLIP)(x)).abs().max() < 1e-4


def test_clap_holds_a_class_as_zero_shot_is_sure_of_its_images():
    ours = make(CLAP, counts=(3, 0, 2, 3))
    y = labels((3, 0, 2, 3))
    x = 5 * features(len(y), ours.clip.embed_dim)
    p = (ours.clip.scale() * F.normalize(x, dim=-1) @ F.normalize(raw_text(), dim=-1).T).softmax(-1)
    wanted = [p[y == c, c].mean() if (y == c).any() else torch.tensor(1.0) for c in range(4)]
    assert (ours.multipliers(x, y) - torch.stack(wanted)).abs().max() < 1e-5
    with torch.no_grad():
        ours.prototypes += 1
    d = ours.clip.embed_dim
    assert ours.penalty(torch.tensor([1.0, 2.0, 3.0, 4.0])).item() == pytest.approx(2.5 * d, rel=1e-4)
    with pytest.raises(ConfigError, match="choose l2 or none"):
        make(CLAP, CONSTRAINT="l1")


def test_clap_sees_as_many_images_an_epoch_as_there_are(monkeypatch):
    ours, seen = make(CLAP, epochs=3), []
    ours.context.cfg.DATALOADER.TRAIN_X.BATCH_SIZE = 3
    monkeypatch.setattr(ours, "logits", lambda x: seen.append(len(x)) or type(ours).logits(ours, x))
    ours.fit((torch.stack([features(8, ours.clip.embed_dim, s) for s in range(4)]), labels()), None)
    assert seen == [3, 3] * 3  # 8 images make two batches of 3, of 32 views


def test_a_batch_is_half_texts_and_smaller_than_what_it_is_drawn_from():
    ours = make(CrossModal, BATCH_SIZES=(4, 8, 32))
    assert [s[2] for s in ours.settings(100, 12)][:2] == [(2, 2), (4, 4)]
    assert {s[2] for s in make(CrossModal).settings(6, 3)} == {(4, 3)} and len(make(CrossModal).settings(6, 3)) == 6
    seen = torch.cat([y for _, (_, y) in zip(range(3), draws(torch.zeros(7, 1), torch.arange(7), 2))])
    assert len(set(seen.tolist())) == 6  # a pass, its rest left out


def test_cross_modal_keeps_the_setting_that_is_best_on_val():
    options = {"ITERATIONS": 40, "EVAL_EVERY": 10, "RATES": (1e-5, 0.1)}
    ours, _, _, (x, y) = fitted(CrossModal, val=True, **options)
    first, *_ = fitted(CrossModal, val=True, **options | {"RATES": (1e-5,)})
    assert ours.accuracy(ours.weight, x, y) >= first.accuracy(first.weight, x, y)
    assert (ours.weight - ours.zero_shot).norm() > 0
    with pytest.raises(ConfigError, match="choose zeroshot or random"):
        make(CrossModal, INIT="zero")
    assert (make(CrossModal, INIT="random").weight - ours.zero_shot).abs().max() > 0.1


def test_the_second_view_is_the_mirror_image(tmp_path):
    trainer = build_trainer(config(tmp_path / "a", "CrossModal"))
    plain_view, mirrored = trainer.train_features()
    assert (plain_view - mirrored).abs().max() > 1e-3
    transform = build_transform(trainer.cfg, is_train=False)
    image = read_image(trainer.dm.dataset.train_x[0].impath)
    assert torch.equal(Mirrored(transform)(image), transform(image.transpose(0)))  # 0: left and right
    trainer = build_trainer(config(tmp_path / "b", "CrossModal", **{"DATASET.FLIP": False}))
    assert len(trainer.train_features()) == 1  # where sides matter


@pytest.mark.parametrize("method, options", [
    (CrossModal, {"RATES": ()}), (CrossModal, {"BATCH_SIZES": (1, 8)}), (CrossModal, {"ITERATIONS": 0}),
    (CLAP, {"VIEWS": 0}), (TransCLIPFS, {"GAMMAS": ()}),
])  # fmt: skip
def test_settings_that_leave_nothing_to_do_are_refused(method, options):
    with pytest.raises(ConfigError, match=f"TRAINER.{method.node_name()}"):
        make(method, **options)


# ---- TransCLIP

def test_transclip_answers_all_images_of_a_loader_together(tmp_path):
    """In batches of any size, in the loader's order; another test set gives an image another answer."""
    probabilities = {}
    for size in (7, 500):
        cfg = config(tmp_path / str(size), "TransCLIP", **{"DATALOADER.TEST.BATCH_SIZE": size, "TEST.NO_TEST": False})
        trainer = build_trainer(cfg)
        trainer.test()
        labels_, _, probabilities[size] = trainer.evaluator.predictions()
    assert np.abs(probabilities[7] - probabilities[500]).max() < 1e-4
    assert labels_.tolist() == [item.label for item in trainer.dm.dataset.test]
    content = json.loads((tmp_path / "7" / "results.json").read_text())
    assert content["transductive"] is True and content["n"] == len(labels_)
    half = trainer.features("test_loader")[: len(labels_) // 2]
    alone = trainer.model(half.to(trainer.device)).softmax(-1).cpu().numpy()
    assert np.abs(alone - probabilities[500][: len(half)]).max() > 1e-3


@pytest.mark.parametrize("count", [1, 2, 5])
def test_transclip_of_few_images(count):
    x = features(count, make(TransCLIP).clip.embed_dim)
    for ours in (make(TransCLIP), fitted(TransCLIPFS, val=True)[0]):
        found = ours(x)
        assert found.shape == (count, 4) and torch.isfinite(found).all()
        assert (found.exp().sum(-1) - 1).abs().max() < 1e-5


def test_labelled_images_vote_for_their_neighbours():
    """Rows of w and z belong to the same images: an image next to labelled ones of a class gets their votes."""
    ours, x, y, _ = fitted(TransCLIPFS, val=True)
    test = x + 0.01 * features(len(y), x.shape[1], 8)
    w, index = ours.neighbours(F.normalize(test, dim=-1))
    assert (index[: len(y), 0] == torch.arange(len(y))).all()
    votes = ours.votes(torch.zeros(len(y), 4), w, index)
    assert (votes[torch.arange(len(y)), y] > 0.9).all()


# ---- all of them

@pytest.mark.parametrize("method", [LinearProbe, LP2, TipAdapter, TipAdapterF, SSText, CLAP, TransCLIPFS])
def test_what_belongs_to_classes_says_so(method):
    ours, *_ = fitted(method)
    bound = method.learner.bound_to_classes(ours.node)
    state = {k: v[:-1] if k in bound else v for k, v in ours.checkpoint_state().items()}
    with pytest.raises(UserError, match="learned for other classes"):
        make(method).load_checkpoint_state(state)


@pytest.mark.parametrize("method", [LinearProbe, LP2, TipAdapter, SSText, CLAP, TransCLIPFS])
def test_a_class_without_images_is_no_crash(method):
    ours, *_ = fitted(method, counts=(3, 0, 2, 3), val=True)
    assert torch.isfinite(ours(plain.batch("openai")[0])).all()


@pytest.mark.parametrize("method", ["CLIPAdapter", "LinearProbe", "LP2", "TipAdapter", "SSText", "TaskRes", "CLAP",
                                    "CrossModal", "TransCLIPFS"])  # fmt: skip
def test_demo_run_and_its_checkpoint(tmp_path, method):
    options = {"TRAINER.CROSSMODAL.ITERATIONS": 20} if method == "CrossModal" else {}
    trainer, state = run(config(tmp_path / "a", method, **options))
    x = torch.randn(2, 3, 64, 64, device=trainer.device)
    before = trainer.model_inference(x)
    with torch.no_grad():
        for value in trainer.model.checkpoint_state():
            dict(trainer.model.named_parameters()).get(value, torch.zeros(1)).zero_()
    trainer.load_model(str(tmp_path / "a"))
    assert torch.equal(trainer.model_inference(x), before) and state
