"""CoCoOp, KgCoOp and ProGrad against plain forms, and what they promise."""

import pytest
import torch
import torch.nn.functional as F

from cilmp.tests.trainers import plain_methods as plain
from cilmp.tests.trainers.test_features import config, own_cache, run  # noqa: F401 - a fixture
from cilmp.trainers.cocoop import CoCoOp
from cilmp.trainers.coop import CoOp
from cilmp.trainers.kgcoop import KgCoOp
from cilmp.trainers.prograd import ProGrad, project

FAMILIES = ["openai", "bert", "siglip", "resnet"]
PHOTO = {"CTX_INIT": "a photo of a"}


def away(model, seed=1):
    """Learned tensors moved off their start, so that no term vanishes."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, p in model.named_trainables():
            p.add_(0.3 * torch.randn(p.shape, generator=g))
    return model


@pytest.mark.parametrize("family", FAMILIES)
def test_cocoop_equals_the_plain_form(family):
    ours, (x, y) = away(plain.learner(CoCoOp, family, N_CTX=3)), plain.batch(family)
    ours.meta_net.linear1.weight.data.mul_(20)  # so that images differ; one hidden unit here, which shall live
    ours.meta_net.linear1.bias.data.add_(9)
    ctx, (w1, b1, w2, b2) = plain.leaf(ours.ctx), map(plain.leaf, ours.meta_net.parameters())
    v = F.normalize(plain.image(family, x), dim=-1)
    pi = F.relu(v @ w1.T + b1) @ w2.T + b2
    t = plain.text(family, [(ctx[None] + pi[:, None])[:, None]])
    loss, logits = ours.loss(x, y)
    wanted = plain.logits(family, v, t)
    assert (logits - wanted).abs().max() < 1e-4
    moved = wanted - plain.logits(family, v, plain.text(family, [(ctx[None] + pi.roll(1, 0)[:, None])[:, None]]))
    assert moved.abs().max() > 0.02  # another image's context would be seen
    parameters = [ours.ctx, *ours.meta_net.parameters()]
    plain.check_gradients(loss, parameters, F.cross_entropy(wanted, y), [ctx, w1, b1, w2, b2])


def test_cocoop_with_a_zero_meta_net_is_coop():
    cocoop, coop = plain.learner(CoCoOp, **PHOTO), plain.learner(CoOp, **PHOTO)
    torch.nn.init.zeros_(cocoop.meta_net.linear2.weight)
    torch.nn.init.zeros_(cocoop.meta_net.linear2.bias)
    x, _ = plain.batch("openai")
    assert (cocoop(x) - coop(x)).abs().max() < 1e-4


def test_cocoop_counts_as_published():
    """ViT-B/16, M = 4: 2,048 + 33,312; here by the formula at the small widths."""
    ours = plain.learner(CoCoOp, **PHOTO)
    d, d_t, M = ours.clip.embed_dim, ours.clip.text_width, 4
    h = d // 16
    assert plain.count(ours) == M * d_t + d * h + h + h * d_t + d_t
    d = d_t = 512
    assert 4 * d_t + d * (d // 16) + d // 16 + d // 16 * d_t + d_t == 35_360


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("weight", [0.0, 8.0])
def test_kgcoop_equals_the_plain_form(family, weight):
    ours, (x, y) = away(plain.learner(KgCoOp, family, W=weight)), plain.batch(family)
    ctx = plain.leaf(ours.ctx)
    t = F.normalize(plain.text(family, [ctx[None, None]])[0], dim=-1)
    w = plain.template(family)
    cosines = torch.stack([t[c] @ w[c] for c in range(len(t))])
    wanted = F.cross_entropy(plain.logits(family, plain.image(family, x), t), y) + weight * (1 - cosines.mean())
    plain.check_gradients(ours.loss(x, y)[0], [ours.ctx], wanted, [ctx])
    if weight == 0:
        assert abs(ours.loss(x, y)[0] - CoOp.learner.loss(ours, x, y)[0]) < 1e-5


@pytest.mark.parametrize("family", FAMILIES)
def test_prograd_losses_equal_the_plain_form(family):
    ours, (x, y) = away(plain.learner(ProGrad, family, N_CTX=4, T=2.0)), plain.batch(family)
    ctx, v = plain.leaf(ours.ctx), plain.image(family, x)
    z, z0 = plain.logits(family, v, plain.text(family, [ctx[None, None]])[0]), None
    z0 = plain.logits(family, v, plain.template(family))
    kl = -((z0 / 2).softmax(-1) * (z / 2).log_softmax(-1)).sum(-1).mean() * 4
    ce, ours_kl, _ = ours.losses(x, y)
    plain.check_gradients(ce + 3 * ours_kl, [ours.ctx], F.cross_entropy(z, y) + 3 * kl, [ctx])


def test_projection_by_hand():
    """g = (1, -2), k = (0, 4): the part -2 against k goes; with LAMBDA 1/2 half of it; agreeing gradients stay."""
    g, k = torch.tensor([1.0, -2.0]), torch.tensor([0.0, 4.0])
    assert torch.equal(project(g, k), torch.tensor([1.0, 0.0]))
    assert torch.equal(project(g, k, 0.5), torch.tensor([1.0, -1.0]))
    assert torch.equal(project(-g, k), -g)
    assert torch.equal(project(g, torch.zeros(2)), g)


def test_prograd_steps_never_oppose_zero_shot(tmp_path, monkeypatch):
    """On the demo: every gradient handed to the optimiser, against the distillation's own."""
    pairs = []
    import cilmp.trainers.prograd as module

    inner = module.project
    monkeypatch.setattr(module, "project", lambda g, k, s: pairs.append((g.clone(), k, inner(g, k, s))) or pairs[-1][2])
    options = {"TRAINER.PROGRAD.CTX_INIT": "a photo of a", "INPUT.TRANSFORMS": ["random_flip", "normalize"]}
    trainer, _ = run(config(tmp_path / "a", "ProGrad", **options))
    assert len(pairs) == 9  # 3 epochs of 3 batches
    assert any((g * k).sum() < 0 for g, k, _ in pairs)  # else nothing was tried
    assert all((p * k).sum() >= -1e-5 * p.norm() * k.norm() for _, k, p in pairs)
    assert trainer.model.ctx.grad is pairs[-1][2] or torch.equal(trainer.model.ctx.grad, pairs[-1][2])


@pytest.mark.parametrize("method", [CoCoOp, KgCoOp, ProGrad])
def test_checkpoints_serve_other_classes(method):
    state = away(plain.learner(method, **PHOTO)).checkpoint_state()
    assert not any("teacher" in name for name in state)
    other = plain.learner(method, names=["cataract", "glaucoma"], **PHOTO)
    other.load_checkpoint_state(state)
    assert other(plain.batch("openai")[0]).shape == (3, 2)


@pytest.mark.parametrize("method", ["CoCoOp", "KgCoOp"])
def test_demo_run_learns(tmp_path, method, capsys):
    options = {f"TRAINER.{method.upper()}.CTX_INIT": "a photo of a", "OPTIM.MAX_EPOCH": 4, "OPTIM.LR": 0.005}
    trainer, state = run(config(tmp_path / "a", method, **options))
    start = trainer.clip.text.embed_words("a photo of a")
    assert torch.isfinite(state["ctx"]).all() and (state["ctx"] - start).abs().max() > 1e-4


def test_prograd_starts_as_its_authors_with_zeros_before_the_words():
    ours, words = plain.learner(ProGrad, ZEROS=12, **PHOTO), plain.learner(ProGrad, **PHOTO)
    assert ours.ctx.shape[0] == 16 and torch.equal(ours.ctx[12:], words.ctx) and not ours.ctx[:12].any()
    t = F.normalize(plain.text("openai", [ours.ctx[None, None]])[0], dim=-1)  # 16 places before the name
    assert (F.normalize(ours.text_features(), dim=-1) - t).abs().max() < 1e-5
