"""VPT, IVLP, MaPLe and PromptSRC against plain forms, and what they promise."""

import pytest
import torch
import torch.nn.functional as F

from cilmp.tests.trainers import plain_methods as plain
from cilmp.tests.trainers.test_context_methods import away
from cilmp.tests.trainers.test_features import config, own_cache, run  # noqa: F401 - a fixture
from cilmp.trainers.ivlp import IVLP
from cilmp.trainers.maple import MaPLe
from cilmp.trainers.promptsrc import PromptSRC
from cilmp.trainers.templates import PROMPTSRC
from cilmp.trainers.vpt import VPT
from cilmp.trainers.zsclip import ZeroshotCLIP
from dassl.utils.errors import ConfigError

FAMILIES = ["openai", "bert", "siglip"]
BOTH = {"N_CTX_TEXT": 3, "N_CTX_VISION": 2, "CTX_INIT": "", "PROMPT_DEPTH_TEXT": 3, "PROMPT_DEPTH_VISION": 2}


def text_levels(ctx):
    return [level[None, None] for level in ctx]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("depth", [1, 3])
def test_vpt_equals_the_plain_form(family, depth):
    ours, (x, y) = away(plain.learner(VPT, family, PROMPT_DEPTH_VISION=depth)), plain.batch(family)
    p = plain.leaf(ours.visual.ctx)
    wanted = F.cross_entropy(plain.logits(family, plain.image(family, x, list(p)), plain.template(family)), y)
    plain.check_gradients(ours.loss(x, y)[0], [ours.visual.ctx], wanted, [p])
    assert plain.count(ours) == depth * 8 * ours.clip.vision_width


@pytest.mark.parametrize("family", [*FAMILIES, "resnet"])
def test_vpt_without_prompts_is_zero_shot(family):
    x, _ = plain.batch(family)
    ours, zero = plain.learner(VPT, family, N_CTX_VISION=0), plain.learner(ZeroshotCLIP, family)
    assert (ours(x) - zero(x)).abs().max() < 1e-5


@pytest.mark.parametrize("family", FAMILIES)
def test_ivlp_equals_the_plain_form(family):
    ours, (x, y) = away(plain.learner(IVLP, family, **BOTH)), plain.batch(family)
    ctx, p = plain.leaf(ours.text.ctx), plain.leaf(ours.visual.ctx)
    t = plain.text(family, text_levels(ctx))[0]
    wanted = F.cross_entropy(plain.logits(family, plain.image(family, x, list(p)), t), y)
    plain.check_gradients(ours.loss(x, y)[0], [ours.text.ctx, ours.visual.ctx], wanted, [ctx, p])
    assert plain.count(ours) == 3 * 3 * ours.clip.text_width + 2 * 2 * ours.clip.vision_width


def test_counts_at_full_size_as_published():
    """2 + 2 tokens at depth 12: 30,720; 4 + 4 at depth 9: 46,080; MaPLe, 2 tokens at depth 9: 3,555,072."""
    d_t, d_v = 512, 768
    assert 12 * 2 * d_t + 12 * 2 * d_v == 30_720 and 9 * 4 * (d_t + d_v) == 46_080
    assert 9 * (2 * d_t + d_t * d_v + d_v) == 3_555_072
    ours = plain.learner(MaPLe, N_CTX=2, PROMPT_DEPTH=2)
    d_t, d_v = ours.clip.text_width, ours.clip.vision_width
    assert plain.count(ours) == 2 * (2 * d_t + d_t * d_v + d_v)


@pytest.mark.parametrize("family", FAMILIES)
def test_maple_equals_the_plain_form(family):
    ours, (x, y) = away(plain.learner(MaPLe, family, PROMPT_DEPTH=3, N_CTX=2, CTX_INIT="")), plain.batch(family)
    ctx = plain.leaf(ours.text.ctx)
    weights = [plain.leaf(f.weight) for f in ours.couple]
    biases = [plain.leaf(f.bias) for f in ours.couple]
    visual = [p @ w.T + b for p, w, b in zip(ctx, weights, biases)]
    t = plain.text(family, text_levels(ctx))[0]
    wanted = F.cross_entropy(plain.logits(family, plain.image(family, x, visual), t), y)
    mine = [ours.text.ctx, *(f.weight for f in ours.couple), *(f.bias for f in ours.couple)]
    plain.check_gradients(ours.loss(x, y)[0], mine, wanted, [ctx, *weights, *biases])


def test_maples_visual_prompts_are_a_function_of_its_text_prompts():
    ours = plain.learner(MaPLe, PROMPT_DEPTH=3)
    before = [p.detach().clone() for p in ours.visual_prompts()]
    with torch.no_grad():
        ours.text.ctx[1] += 1
    changed = [bool((a != b).any()) for a, b in zip(before, ours.visual_prompts())]
    assert changed == [False, True, False]
    first, second, third = (f.weight for f in plain.learner(MaPLe, PROMPT_DEPTH=3).couple)
    assert torch.equal(second, third) and not torch.equal(first, second)


def test_maple_on_a_resnet_is_one_line():
    with pytest.raises(ConfigError, match=r"MaPLe reaches into the blocks of a plain ViT, .* \(ResNet\): use another backbone"):
        plain.learner(MaPLe, "resnet")


@pytest.mark.parametrize("family", FAMILIES)
def test_promptsrc_equals_the_plain_form(family):
    ours, (x, y) = away(plain.learner(PromptSRC, family, **BOTH)), plain.batch(family)
    ctx, p = plain.leaf(ours.text.ctx), plain.leaf(ours.visual.ctx)
    t = F.normalize(plain.text(family, text_levels(ctx))[0], dim=-1)
    v = F.normalize(plain.image(family, x, list(p)), dim=-1)
    u = F.normalize(plain.image(family, x), dim=-1)
    with torch.no_grad():
        model, ids = plain.original(family), plain.tokenizer(family)
        texts = [[sentence.format(n) for n in plain.NAMES] for sentence in PROMPTSRC]
        raw = [model.encode_text(ids(s, plain.small(family).context_length)) for s in texts]
        w = F.normalize(sum(raw) / 60, dim=-1)
    assert len(PROMPTSRC) == 60 and PROMPTSRC[0] == "a photo of a {}." and PROMPTSRC[-1] == "itap of the {}."
    z, z0 = plain.logits(family, v, t), plain.logits(family, u, w)
    kl = (z0.softmax(-1) * (z0.log_softmax(-1) - z.log_softmax(-1))).mean()
    wanted = F.cross_entropy(z, y) + 25 * (t - w).abs().mean() + 10 * (v - u).abs().mean() + kl
    plain.check_gradients(ours.loss(x, y)[0], [ours.text.ctx, ours.visual.ctx], wanted, [ctx, p])


def test_promptsrc_unregulated_and_not_averaged_is_ivlp(tmp_path):
    node = {"N_CTX_TEXT": 2, "N_CTX_VISION": 2}
    off = {"TEXT_LOSS_WEIGHT": 0.0, "IMAGE_LOSS_WEIGHT": 0.0, "LOGITS_LOSS_WEIGHT": 0.0, "GPA": False}
    states = {}
    for method, options in (("IVLP", node), ("PromptSRC", node | off), ("averaged", node | off | {"GPA": True})):
        name = "PromptSRC" if method == "averaged" else method
        keys = {f"TRAINER.{name.upper()}.{k}": v for k, v in options.items()}
        _, states[method] = run(config(tmp_path / method, name, **keys))
    assert states["IVLP"].keys() == states["PromptSRC"].keys()
    for key, value in states["IVLP"].items():
        assert (value - states["PromptSRC"][key]).abs().max() < 1e-6
    assert any((v - states["averaged"][k]).abs().max() > 1e-5 for k, v in states["IVLP"].items())


@pytest.mark.parametrize("method", [VPT, IVLP, MaPLe, PromptSRC])
def test_checkpoints_serve_other_classes(method):
    state = away(plain.learner(method)).checkpoint_state()
    other = plain.learner(method, names=["cataract", "glaucoma"])
    other.load_checkpoint_state(state)
    assert other(plain.batch("openai")[0]).shape == (3, 2)
    for name, value in other.checkpoint_state().items():
        assert torch.equal(value, state[name])
