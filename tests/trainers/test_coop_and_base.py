"""CoOp against plain texts; zero-shot; what the base promises of every learner."""

import pytest
import torch
import torch.nn.functional as F
from yacs.config import CfgNode

from cilmp.benchmarks.plain.text import Slot, plain_text
from cilmp.tests.backbones.small_models import images, original, small, tokenizer
from cilmp.tests.trainers import cilmp_cases
from cilmp.trainers.averaging import GaussianAverage
from cilmp.trainers.coop import CoOp, CoOpLearner
from cilmp.trainers.learner import init_context
from cilmp.trainers.precision import in_towers
from cilmp.trainers.visual import VisualPrompts
from cilmp.trainers.zsclip import ZeroshotCLIP, ZeroshotLearner
from dassl.utils.errors import ConfigError, UserError

NAMES = ["melanoma", "basal cell carcinoma", "nevus", "a very long and ragged class name"]
FAMILIES = ["openai", "bert", "siglip", "resnet"]


def coop(family, **options):
    return CoOpLearner(CfgNode({**CoOp.defaults, **options}), small(family), NAMES)


def zero_shot(family):
    return ZeroshotLearner(CfgNode(dict(ZeroshotCLIP.defaults)), small(family), NAMES)


@pytest.mark.parametrize("family", FAMILIES)
def test_zero_shot_equals_open_clips_own_text_and_image(family):
    model, x = original(family), images(family, 2)
    ids = tokenizer(family)([f"a photo of a {n}." for n in NAMES], small(family).context_length)
    with torch.no_grad():
        v, t = F.normalize(model.encode_image(x), dim=-1), F.normalize(model.encode_text(ids), dim=-1)
        wanted = model.logit_scale.exp() * v @ t.T
        assert (zero_shot(family)(x) - wanted).abs().max() < 1e-4


@pytest.mark.parametrize("family", FAMILIES)
def test_initial_words_are_zero_shot(family):
    """CoOp that starts at "a photo of a" says what the template says."""
    x = images(family, 2)
    with torch.no_grad():
        assert (coop(family, CTX_INIT="a_photo_of_a")(x) - zero_shot(family)(x)).abs().max() < 1e-4


@pytest.mark.parametrize("place", ["end", "middle", "front"])
@pytest.mark.parametrize("csc", [False, True])
def test_positions_and_gradients_equal_the_plain_form(place, csc):
    torch.manual_seed(0)
    ours = coop("openai", N_CTX=5, CSC=csc, CLASS_TOKEN_POSITION=place)
    ours.ctx.data.normal_(std=0.5)
    ctx = ours.ctx.detach().clone().requires_grad_()
    tokens = ctx[None] if csc else ctx[None, None]
    clip, tok = ours.clip, tokenizer("openai")
    lengths = [int(clip.text.tokenize([n])[1][0]) - 1 for n in NAMES]  # without start and end
    after = [1 + n for n in lengths]
    slots = {
        "end": [Slot([tokens], 1)],
        "front": [Slot([tokens], after)],
        "middle": [Slot([tokens[:, :, :2]], 1), Slot([tokens[:, :, 2:]], after)],
    }[place]
    ids = tok([f"{n}." for n in NAMES], clip.context_length)
    plain = plain_text(original("openai").requires_grad_(False), ids, slots)[0]
    features = ours.text_features()
    assert (F.normalize(features, dim=-1) - F.normalize(plain, dim=-1)).abs().max() < 1e-5
    weights = torch.randn_like(plain)
    (wanted,) = torch.autograd.grad((plain * weights).sum(), ctx)
    (got,) = torch.autograd.grad((features * weights).sum(), ours.ctx)
    assert (got - wanted).norm() < 1e-4 * wanted.norm()


def test_class_specific_context_serves_no_other_classes():
    state = coop("openai", N_CTX=3, CSC=True).checkpoint_state()
    other = CoOpLearner(CfgNode({**CoOp.defaults, "N_CTX": 3, "CSC": True}), small("openai"), NAMES[:2])
    with pytest.raises(UserError, match="learned for other classes"):
        other.load_checkpoint_state(state)
    shared = CoOpLearner(CfgNode({**CoOp.defaults, "N_CTX": 3}), small("openai"), NAMES[:2])
    shared.load_checkpoint_state(coop("openai", N_CTX=3).checkpoint_state())


def test_unknown_position_is_one_line():
    with pytest.raises(UserError, match="choose end, middle or front"):
        coop("openai", CLASS_TOKEN_POSITION="left")


def test_context_words_that_do_not_fit_stay_in_the_prompt():
    text = small("openai").text
    ctx, rest = init_context(text, "a photo of a", 2)
    assert rest == "of a " and torch.equal(ctx, text.embed_words("a photo"))
    ctx, rest = init_context(text, "a photo of a", 6)
    assert ctx.shape == (6, text.width) and rest == ""


@pytest.mark.parametrize("make", ["coop", "cilmp"])
def test_bf16_mixed_precision_stays_close_and_weights_stay_fp32(make):
    if make == "coop":
        ours = coop("openai", CTX_INIT="a photo of a")
    else:
        small_cilmp = {"LOW_RANK_DIMENSION": 3, "PREFIX_LENGTH": 2, "SUFFIX_LENGTH": 2, "DROPOUT": 0.0}
        ours = cilmp_cases.learner(small("openai"), NAMES, cilmp_cases.rows([6] * 4, 40), **small_cilmp)
    x, labels = images("openai", 3), torch.tensor([0, 1, 2])
    full, _ = ours.loss(x, labels)
    in_towers(ours.clip, "bf16")
    mixed, _ = ours.loss(x, labels)
    mixed.backward()
    assert abs(full.item() - mixed.item()) < 0.1 * abs(full.item()) + 0.05
    for _, p in ours.named_trainables():
        assert p.dtype == torch.float32 and p.grad is not None and torch.isfinite(p.grad).all()


def test_no_backbone_weight_is_learned_or_saved():
    ours = coop("openai", N_CTX=3)
    assert [n for n, _ in ours.named_trainables()] == ["ctx"] and list(ours.checkpoint_state()) == ["ctx"]
    assert not any(p.requires_grad for p in ours.clip.parameters())


def test_visual_prompts_on_a_resnet_are_refused_in_one_line():
    learner = coop("resnet", N_CTX=3)
    with pytest.raises(ConfigError, match=r"CoOp .*\(ResNet\): use another backbone"):
        VisualPrompts(learner, 2, 1)
    assert VisualPrompts(learner, 0, 1).encode(images("resnet", 1)).shape[0] == 1


def test_gaussian_average_by_hand():
    """E = 3, mean 2, std 1: densities e^-1/2, 1, e^-1/2."""
    value = torch.nn.Parameter(torch.zeros(2))
    average = GaussianAverage(2, 1, 3, keep=lambda n: n == "a")
    for epoch, x in enumerate([1.0, 2.0, 6.0]):
        value.data.fill_(x)
        average.update(epoch, [("a", value), ("b", value)])
    side = 0.6065306597126334
    average.load_into([("a", value)])
    assert value[0].item() == pytest.approx((1 * side + 2 + 6 * side) / (1 + 2 * side))
    again = GaussianAverage(2, 1, 3)
    again.load_state(average.state())
    assert again.epochs_seen == 3 and "b" not in again.sum


def test_gaussian_average_is_refused_before_its_last_epoch():
    average = GaussianAverage(2, 1, 3)
    average.update(0, [("a", torch.ones(1))])
    with pytest.raises(ValueError, match="1 of 3 epochs"):
        average.load_into([])


@pytest.mark.parametrize("make", ["coop", "ivlp"])
def test_text_is_encoded_once_for_a_whole_evaluation(make, monkeypatch):
    from cilmp.trainers.ivlp import IVLP

    trainer = {"coop": CoOp, "ivlp": IVLP}[make]
    ours = trainer.learner(CfgNode(dict(trainer.defaults)), small("openai"), NAMES)
    calls, inner = [], type(ours.clip.text).encode
    monkeypatch.setattr(type(ours.clip.text), "encode", lambda *a, **k: calls.append(1) or inner(*a, **k))

    def evaluate():
        with torch.no_grad():
            return [ours(images("openai", 2, seed)) for seed in range(3)]

    ours.eval()
    before = evaluate()
    assert len(calls) == 1
    ours.train()
    for seed in range(2):
        ours(images("openai", 2, seed))
    assert len(calls) == 3  # every step of training
    with torch.no_grad():
        next(ours.parameters()).normal_()
    ours.eval()
    after = evaluate()
    assert len(calls) == 4 and (after[0] - before[0]).abs().max() > 1e-3  # a new evaluation sees new weights


def test_what_is_kept_for_an_evaluation_is_kept_by_what_computes_it():
    """once(f), once(g): two values; each computed once, and anew after the weights may have changed."""
    ours, calls = coop("openai", N_CTX=3).eval(), []

    def f():
        calls.append("f")
        return 1

    def g():
        calls.append("g")
        return 2

    with torch.no_grad():
        assert [ours.once(x) for x in (f, g, f, g)] == [1, 2, 1, 2] and calls == ["f", "g"]
        ours.train().eval()
        assert ours.once(g) == 2 and calls == ["f", "g", "g"]
