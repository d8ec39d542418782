"""BiomedCoOp and Biomed-DPT against plain forms; which sentences are kept; where they come from."""

import json

import pytest
import torch
import torch.nn.functional as F

from cilmp.tests.trainers import plain_methods as plain
from cilmp.tests.trainers.test_context_methods import away
from cilmp.tests.trainers.test_features import config, own_cache, run  # noqa: F401 - a fixture
from cilmp.trainers.biomedcoop import BiomedCoOp
from cilmp.trainers.biomeddpt import BiomedDPT
from dassl.utils.errors import ConfigError, UserError

ANSWERS = {name: [f"{name} looks {look} here" for look in ("dark", "round", "odd and large", "pale")]
           for name in plain.NAMES}  # fmt: skip


@pytest.fixture
def answers(tmp_path):
    path = tmp_path / "answers.json"
    path.write_text(json.dumps(ANSWERS))
    return {"SENTENCES": str(path), "N_PROMPTS": 4}


def make(method, family, answers, **options):
    context = plain.context(classnames=plain.NAMES, knowledge_names=plain.NAMES)
    return away(plain.learner(method, family, context=context, **answers, **options))


def plain_sentences(family):
    """(C, N, d), unit."""
    texts = [plain.template(family, sentence, names=[""]) for name in plain.NAMES for sentence in ANSWERS[name]]
    return torch.cat(texts).unflatten(0, (len(plain.NAMES), 4))


def seen_by_the_first_block(ours, x):
    """What its norm reads of the image's tokens, and of the blanked places (n, d_v)."""
    read, hook = [], ours.clip.image.blocks[0].ln1.register_forward_hook(lambda _, inputs, __: read.append(inputs[0]))
    ours.image_features(x)
    hook.remove()
    return read


def kl(z0, z):
    return (z0.softmax(-1) * (z0.log_softmax(-1) - z.log_softmax(-1))).mean()


@pytest.mark.parametrize("family", ["openai", "bert", "siglip", "resnet"])
def test_biomedcoop_equals_the_plain_form(family, answers):
    ours, (x, y) = make(BiomedCoOp, family, answers, TAU=0.9), plain.batch(family)
    ctx, sentences = plain.leaf(ours.ctx), plain_sentences(family)
    v = F.normalize(plain.image(family, x), dim=-1)
    t = F.normalize(plain.text(family, [ctx[None, None]])[0], dim=-1)
    scale = plain.original(family).logit_scale.exp()
    r = torch.stack([scale * (v @ sentences[:, n].T).max(dim=1).values.mean() for n in range(4)])
    keep = [n for n in range(4) if abs(r[n] - r.mean()) / r.std() <= 0.9]
    assert 0 < len(keep) < 4 and ours.kept(v).nonzero().flatten().tolist() == keep
    chosen, centre = F.normalize(sentences[:, keep].mean(1), dim=-1), F.normalize(sentences.mean(1), dim=-1)
    z, z0 = plain.logits(family, v, t), plain.logits(family, v, chosen)
    wanted = F.cross_entropy(z, y) + ((t - centre) ** 2).mean() + kl(z0, z)
    plain.check_gradients(ours.loss(x, y)[0], [ours.ctx], wanted, [ctx])


def test_equal_sentences_are_all_kept(answers):
    ours = make(BiomedCoOp, "openai", answers)
    ours.sentences.copy_(ours.sentences[:, :1].expand(-1, 4, -1).clone())
    assert ours.kept(F.normalize(torch.randn(3, ours.clip.embed_dim), dim=-1)).all()


@pytest.mark.parametrize("family", ["openai", "bert", "siglip"])
def test_biomeddpt_equals_the_plain_form(family, answers):
    ours = make(BiomedDPT, family, answers, TEMPLATE="a photo of a {} in the brain.", N_CTX_VISION=3)
    x, y = plain.batch(family)
    ctx, w = plain.leaf(ours.ctx), F.normalize(plain_sentences(family).mean(1), dim=-1)
    clip = ours.clip
    zeros = [torch.zeros(3, clip.vision_width)] * clip.vision_layers
    v = F.normalize(plain.image(family, x, zeros, "patches"), dim=-1)
    named = [f"{n} in the brain" for n in plain.NAMES]
    t = F.normalize(plain.text(family, [ctx[None, None]], names=named)[0], dim=-1)
    z, z0 = plain.logits(family, v, t), plain.logits(family, v, w)
    wanted = F.cross_entropy(z, y) + 25 * (t - w).abs().mean() + 0.5 * kl(z0, z)
    plain.check_gradients(ours.loss(x, y)[0], [ours.ctx], wanted, [ctx])
    seen = F.normalize(plain.image(family, x), dim=-1)
    assert (v - seen).abs().max() > 1e-3  # blanking patches is seen


def test_templates_and_towers_that_cannot_be(answers):
    with pytest.raises(ConfigError, match="where the class name stands"):
        make(BiomedDPT, "openai", answers, TEMPLATE="a photo")
    with pytest.raises(ConfigError, match="BiomedDPT reaches into the blocks of a plain ViT"):
        make(BiomedDPT, "resnet", answers)
    with pytest.raises(UserError, match="4 sentences"):
        make(BiomedCoOp, "openai", answers | {"N_PROMPTS": 5})


@pytest.mark.parametrize("method", [BiomedCoOp, BiomedDPT])
def test_checkpoints_hold_the_context_alone(method, answers):
    ours = make(method, "openai", answers)
    assert list(ours.checkpoint_state()) == ["ctx"] and plain.count(ours) == ours.ctx.numel()


@pytest.mark.parametrize("method", ["BiomedCoOp", "BiomedDPT"])
def test_demo_run_with_the_committed_sentences(tmp_path, method):
    trainer, state = run(config(tmp_path / "a", method))
    start = trainer.clip.text.embed_words("a photo of a")
    assert torch.isfinite(state["ctx"]).all() and (state["ctx"] - start).abs().max() > 1e-4


@pytest.mark.parametrize("method", [BiomedCoOp, BiomedDPT])
def test_the_text_towers_own_dropout_acts_in_training_alone_and_where_asked_for(method, answers):
    x, y = plain.batch("bert")
    for asked in (False, True):
        ours = make(method, "bert", answers, TEXT_DROPOUT=asked).train()
        losses = [ours.loss(x, y)[0].item() for _ in range(2)]
        assert (losses[0] != losses[1]) == asked
        ours.eval()
        assert torch.equal(ours(x), ours(x)) and torch.equal(ours(x), make(method, "bert", answers)(x))


def test_the_first_block_sees_zeros_in_blanked_places_where_asked_for(answers):
    x, _ = plain.batch("openai")
    for behind in (False, True):
        ours = make(BiomedDPT, "openai", answers, BEHIND_NORM=behind)
        tokens, blanked = seen_by_the_first_block(ours, x)
        assert tokens.shape[1] + len(blanked) == 17 and blanked.any() != behind
        assert ("behind the norm" in ours.image_key) == behind  # features of the one are not those of the other
    bert = [make(BiomedDPT, "bert", answers, BEHIND_NORM=behind) for behind in (False, True)]
    x, _ = plain.batch("bert")
    assert torch.equal(*(ours.image_features(x) for ours in bert))  # timm's ViTs have no such norm
