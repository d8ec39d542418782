"""CILMP in rank space equals the plain D-wide form, and the official implementation's own numbers."""

import pytest
import torch
import torch.nn.functional as F
import yaml

from cilmp import backbones
from cilmp.benchmarks.plain.cilmp import plain_cilmp
from cilmp.benchmarks.plain.image import plain_image
from cilmp.benchmarks.plain.text import Slot, plain_text
from cilmp.experiments.settings import base_config
from cilmp.tests.backbones.small_models import images
from cilmp.tests.official import cilmp as numbers
from cilmp.tests.trainers import cilmp_cases as cases
from cilmp.trainers import dropped_sums, interventions
from cilmp.trainers.cilmp import CILMP
from dassl.utils.errors import UserError
from dassl.utils.paths import REPO

NAMES = ["polyps", "dyed lifted polyps", "ulcerative colitis", "normal z-line", "esophagitis", "melanoma",
         "immature granulocytes(myelocytes, metamyelocytes)", "platelet"]  # fmt: skip
SMALL = {"LOW_RANK_DIMENSION": 3, "PREFIX_LENGTH": 2, "SUFFIX_LENGTH": 2, "N_CTX_TEXT": 4, "N_CTX_VISION": 2,
         "CTX_INIT": ""}  # fmt: skip


def classes(count):
    return [NAMES[c % 8] + (f" of grade {c}" if c >= 8 else "") for c in range(count)]


def both(family, lengths, D=40, depth=12, chunk=0, B=3, layers=None, **options):
    """(our learner, ours, plain, gradients of ours, of plain) on random weights."""
    clip, model = cases.small(family, layers=layers), cases.original(family, layers=layers)
    names, llm = classes(len(lengths)), cases.rows(lengths, D)
    ours = cases.learner(clip, names, llm, PROMPT_DEPTH_TEXT=depth, PROMPT_DEPTH_VISION=depth, CHUNK=chunk,
                         **{**SMALL, **options})  # fmt: skip
    cases.wake(ours)
    ours.eval()
    learned = {k: v.detach().double().requires_grad_() for k, v in cases.official_tensors(ours).items()}
    ids = cases.tokenizer(family)([f"{n}." for n in names], clip.context_length)
    x, labels = images(family, B), torch.arange(B) % len(lengths)
    start, llm = int(clip.text.starts), [h.double() for h in llm]
    model = model.double().requires_grad_(False)  # the judge does not round
    plain = plain_cilmp(model, learned, llm, ids, x.double(), 2, 2, start=start)
    F.cross_entropy(plain["logits"], labels).backward()
    logits = ours(x)
    F.cross_entropy(logits, labels).backward()
    gradients = cases.official_gradients(ours), {k: v.grad for k, v in learned.items()}
    return ours, logits.detach(), plain["logits"].detach(), *gradients


def assert_same(logits, plain, gradients, wanted):
    assert (logits - plain).abs().max() < 1e-4
    assert plain.std() > 0.05, "a case in which nothing moves proves nothing"
    for name, g in wanted.items():
        assert (gradients[name] - g).norm() <= 1e-4 * g.norm() + 1e-9, name


@pytest.mark.parametrize("family", ["openai", "bert"])
@pytest.mark.parametrize(
    "lengths", [[6, 6], [6] * 8, [6, 9, 6, 4, 7, 5, 8, 6], [6, 9, 6], [6] * 23, [6, 4, 9] * 7 + [5, 8]], ids=str
)
def test_equals_the_plain_form(family, lengths):
    _, *case = both(family, lengths)
    assert_same(*case)


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_every_depth(depth):
    _, *case = both("openai", [6, 9, 5], depth=depth)
    assert_same(*case)


@pytest.mark.parametrize("depth", [1, 6, 11, 12])
def test_depths_of_twelve_layers(depth):
    ours, *case = both("openai", [6, 8], depth=depth, layers=12)
    assert ours.clip.text_layers == 12 and ours.depth == depth
    assert_same(*case)


@pytest.mark.parametrize("family", ["openai", "bert", "siglip"])
def test_with_zero_bp_it_is_ivlp_with_zero_tokens(family):
    """Bp = 0: L_c zero tokens after ctx, written over at every prompted layer."""
    lengths = [6, 9, 5]
    clip, model, x = cases.small(family), cases.original(family), images(family, 3)
    ours = cases.learner(clip, classes(3), cases.rows(lengths, 40), **SMALL, PROMPT_DEPTH_TEXT=3).eval()
    cases.wake(ours)
    with torch.no_grad():
        ours.Bp.zero_()
        ids = cases.tokenizer(family)([f"{n}." for n in classes(3)], clip.context_length)
        start, zeros = int(clip.text.starts), [torch.zeros(1, 1, 9, clip.text_width)] * 3
        slots = [Slot([c[None, None] for c in ours.ctx], start), Slot(zeros, start, lengths)]
        t = F.normalize(plain_text(model, ids, slots)[0], dim=-1)
        v = F.normalize(plain_image(model, x, list(ours.visual.ctx)), dim=-1)
        assert (ours(x) - clip.scale() * v @ t.T).abs().max() < 1e-4


@pytest.mark.parametrize("width", [576, 4096])
def test_llm_widths(width):
    _, *case = both("openai", [5, 7], D=width)
    assert_same(*case)


def test_siglip_family():
    _, *case = both("siglip", [5, 7, 4])
    assert_same(*case)


def test_result_does_not_depend_on_the_chunk():
    _, whole, _, gradients, _ = both("openai", [6, 9, 5, 6])
    _, pieces, _, in_pieces, _ = both("openai", [6, 9, 5, 6], chunk=2)
    torch.testing.assert_close(pieces, whole, atol=1e-5, rtol=1e-5)
    for name, g in gradients.items():
        assert (in_pieces[name] - g).norm() <= 1e-4 * g.norm() + 1e-9, name


def test_images_condition_the_text():
    ours, *_ = both("openai", [6, 6, 6])
    with torch.no_grad():
        v = F.normalize(ours.visual.encode(images("openai", 3)), dim=-1)
        text = F.normalize(ours.clip.text.encode(ours.prompts(v)), dim=-1)
        swapped = F.normalize(ours.clip.text.encode(ours.prompts(v[[1, 0, 2]])), dim=-1)
    scores = [ours.clip.scale() * torch.einsum("bd,bcd->bc", v, t) for t in (text, swapped)]
    assert (scores[0] - scores[1])[:2].abs().max() > 0.05
    torch.testing.assert_close(scores[0][2], scores[1][2], atol=1e-4, rtol=1e-4)


def test_unconditional_gives_every_image_the_same_text():
    ours = cases.learner(cases.small("openai"), NAMES[:3], cases.rows([6, 7, 5], 40), CONDITIONAL=False, **SMALL).eval()
    cases.wake(ours)
    v = F.normalize(torch.randn(4, ours.clip.embed_dim), dim=-1)
    text = ours.clip.text.encode(ours.prompts(v))
    assert text.shape == (3, ours.clip.embed_dim)


# ---- the official numbers

official = numbers.official


@pytest.fixture(scope="module")
def ours(official):
    return cases.official_learner(official)


def test_official_features(official, ours):
    with torch.no_grad():
        v = F.normalize(ours.visual.encode(official["images"]), dim=-1)
        text = ours.clip.text.encode(ours.prompts(v))
    assert (v - official["image_features"]).abs().max() < 1e-6
    torch.testing.assert_close(text, official["text_features"], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("official", ["shared"], indirect=True)  # too many numbers for the repository
def test_official_deep_tokens(official, ours):
    prompts = ours.prompts(official["image_features"])
    for level in (1, 2):
        tokens = [s.levels[level] for s in prompts.segments if s.depth > 1][1:]  # without ctx
        slots = [t.dense().expand(3, 8, -1, -1) for t in tokens]
        torch.testing.assert_close(torch.cat(slots, 2), official[f"deep_llm/{level}"], atol=1e-4, rtol=1e-4)


def test_official_logits_loss_and_gradients(official, ours):
    ours.zero_grad()
    loss, logits = ours.loss(official["images"], official["labels"])
    loss.backward()
    assert (logits - official["logits"]).abs().max() < 1e-4
    assert (loss - official["loss"]).abs() < 1e-4  # of 13.2, as the logits
    gradients = cases.official_gradients(ours)
    assert gradients.keys() == numbers.part(official, "grad/").keys()
    for name, g in gradients.items():
        wanted = official[f"grad/{name}"]
        assert (g - wanted).norm() < 1e-4 * wanted.norm(), name


# ---- dropout, controls, counts


@pytest.fixture(params=[dropped_sums.Gaps, dropped_sums.Masks], ids=["gaps", "masks"])
def drawn(request, monkeypatch):
    """drawn(rows): dropouts as on a CPU or as on a GPU, so many 75-wide rows at once."""

    def choose(rows):
        monkeypatch.setattr(dropped_sums, "drawn_on", lambda device: request.param)
        monkeypatch.setattr(request.param, "NUMBERS", rows * 75)

    return choose


@pytest.mark.parametrize("mode", ["hidden", "shared"])
def test_dropout_law(mode, drawn):
    """Mean and variance of a token under dropout, against the law: independent keep with probability 0.9, over 0.9."""
    torch.manual_seed(0)
    drawn(100)
    clip = cases.small("openai")
    ours = cases.learner(clip, NAMES[:2], cases.rows([5, 5], 64), DROPOUT=0.1, DROPOUT_MODE=mode, **SMALL)
    cases.wake(ours)
    v = F.normalize(torch.randn(3, clip.embed_dim), dim=-1)
    with torch.no_grad():
        terms = ours.prefix.source_terms(ours.h_prefix)
        w, R = ours.prefix.differences(terms, v), ours.prefix.rotate
        e = ours.h_prefix[None, None] + torch.einsum("jbcpk,jdk->jbcpd", w, R)  # (J, B, C, P, D)
        mean = torch.einsum("jbcpd,jrd->jbcpr", e, ours.A)
        variance = 0.1 / 0.9 * torch.einsum("jbcpd,jrd->jbcpr", e**2, ours.A**2)
        ours.train()
        drawn = torch.stack([ours._coordinates(ours.prefix, ours.h_prefix, terms, v) for _ in range(1500)])
    deviation = variance.sqrt()
    assert ((drawn.mean(0) - mean).abs() / deviation).max() < 5 / 1500**0.5
    assert (drawn.var(0) / variance - 1).abs().mean() < 0.05
    between = drawn - mean
    if mode == "hidden":  # the coordinates of a token see one mask
        wanted = 0.1 / 0.9 * torch.einsum("jbcpd,jrd,jsd->jbcprs", e**2, ours.A, ours.A)
        found = torch.einsum("njbcpr,njbcps->jbcprs", between, between) / len(drawn)
        scale = deviation[..., None] * deviation[..., None, :]
        assert ((found - wanted) / scale).abs().max() < 5 * (2 / 1500) ** 0.5
        rows = (between[:, :, :, :, 0] * between[:, :, :, :, 1]).mean(0) / (deviation[..., 0, :] * deviation[..., 1, :])
        assert rows.abs().max() < 0.12, "rows must have masks of their own"
    correlation = (between[:, :, 0] * between[:, :, 1]).mean(0) / (deviation[:, 0] * deviation[:, 1])
    if mode == "hidden":
        assert correlation.abs().max() < 0.12, "images must have masks of their own"
    else:
        assert correlation.mean() > 0.5, "one mask for all images"


def d_wide(h, w, A, R, p, seed):
    """What `coordinates_hidden_dropout` stands for, at width D under the mask of that seed; and the mask (J, N, D)."""
    keep = torch.ones(len(A), w[0, ..., 0].numel(), h.shape[-1], dtype=h.dtype)
    for j in range(len(A)):
        for block in dropped_sums.drawn_on(h.device).blocks(h, keep.shape[1], p, seed + j):
            if isinstance(block, dropped_sums.Masks):
                keep[j, block.at] -= block.z
                continue
            inside = block.token < block.count
            keep[j, block.at][block.token[inside].long(), block.dimension[inside].long()] = 0
    e = h + torch.einsum("jbcpk,jdk->jbcpd", w, R)
    return torch.einsum("jbcpd,jrd->jbcpr", keep.view(e.shape) * e / (1 - p), A), keep


@pytest.mark.parametrize("p", [0.02, 0.1, 0.6])
@pytest.mark.parametrize("rows_at_once", [1, 4, 1000])
def test_dropout_is_that_of_wide_rows(p, rows_at_once, drawn):
    """Tokens and gradients, of the very same mask."""
    torch.manual_seed(0)
    J, B, C, P, D, r = 2, 5, 3, 2, 75, 4
    drawn(rows_at_once)
    h, *learned = (torch.randn(n, dtype=torch.float64) for n in [(C, P, D), (J, B, C, P, r), (J, r, D), (J, D, r)])
    learned = [x.requires_grad_() for x in learned]
    before = torch.get_rng_state()
    ours = interventions.coordinates_hidden_dropout(h, *learned, p)
    torch.set_rng_state(before)
    wide, keep = d_wide(h, *learned, p, int(torch.randint(2**62, ())))
    assert (1 - keep.mean() - p).abs() < 5 * (p * (1 - p) / keep.numel()) ** 0.5
    torch.testing.assert_close(ours, wide, atol=1e-10, rtol=1e-10)
    slope = torch.randn_like(wide)
    for a, b in zip(torch.autograd.grad(ours, learned, slope), torch.autograd.grad(wide, learned, slope)):
        torch.testing.assert_close(a, b, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("p", [0.1, 0.5])
def test_steps_between_dropped_numbers_are_geometric(p):
    """The law itself, of all 2^24 uniform numbers that there are: off by no more than their resolution."""
    steps = dropped_sums._steps(torch.arange(2**24, dtype=torch.float32) / 2**24, p).long()
    share = torch.bincount(steps).double() / 2**24
    n = torch.arange(len(share))
    wanted = (p * (1 - p) ** (n - 1.0)).masked_fill(n == 0, 0)
    assert (share - wanted).abs().max() < 3 / 2**24
    assert abs(1 / steps.double().mean() - p) < 1e-6


def test_places_are_independent_trials():
    """Share, and correlation of every number with the numbers after it and below it, over 400 draws."""
    generator, total = torch.Generator().manual_seed(0), 2000
    hit = torch.zeros(400, total)
    for n in range(400):
        place = dropped_sums._places(total, 0.1, generator, "cpu")
        assert place[-1] >= total, "enough were drawn"
        hit[n, place[place < total].long()] = 1
    hit = (hit - 0.1) / 0.3
    assert hit.mean().abs() < 5 / hit.numel() ** 0.5
    assert hit.mean(0).abs().max() < 5 / 400**0.5, "every place alike"
    for lag in (1, 2, 3, 10, 50):
        assert (hit[:, lag:] * hit[:, :-lag]).mean().abs() < 5 / hit.numel() ** 0.5, lag
    assert (hit[1:] * hit[:-1]).mean().abs() < 5 / hit.numel() ** 0.5


def test_noise_is_a_function_of_seed_level_and_row(drawn):
    """A row's mask does not change with how many rows follow it."""
    drawn(8)
    h, A, R = torch.randn(3, 2, 75), torch.randn(2, 4, 75), torch.randn(2, 75, 4)
    few, many = (d_wide(h, torch.zeros(2, images, 3, 2, 4), A, R, 0.1, 7)[1] for images in (3, 5))
    assert torch.equal(few, many[:, : few.shape[1]]) and not torch.equal(few[0], few[1])
    assert not torch.equal(many[:, :8], many[:, 8:16]), "blocks have noise of their own"


@pytest.mark.parametrize("p", [1.0, -0.1])
def test_dropout_is_a_share(p):
    trainer = object.__new__(CILMP)
    trainer.cfg = base_config()
    trainer.cfg.TRAINER.CILMP.DROPOUT = p
    with pytest.raises(UserError, match=r"TRAINER.CILMP.DROPOUT .*: a share of 0 or more, below 1"):
        trainer.check_cfg(trainer.cfg)


def test_no_dropout_in_evaluation():
    ours = cases.learner(cases.small("openai"), NAMES[:2], cases.rows([5, 5], 40), DROPOUT=0.5, **SMALL).eval()
    x = images("openai", 2)
    with torch.no_grad():
        assert torch.equal(ours(x), ours(x))


def test_image_free_terms_are_computed_once_in_evaluation(monkeypatch):
    ours = cases.learner(cases.small("openai"), NAMES[:2], cases.rows([5, 5], 40), **SMALL).eval()
    calls = []
    plain = type(ours.prefix).source_terms
    monkeypatch.setattr(type(ours.prefix), "source_terms", lambda self, h: calls.append(1) or plain(self, h))
    with torch.no_grad():
        for seed in range(4):
            ours(images("openai", 2, seed))
    assert len(calls) == 2  # prefix and suffix, once each


def test_parameter_count_of_the_paper():
    """Section 16.1 of the method's facts: 3,846,528 learned numbers on ViT-B/16 with LLM rows of 4096."""
    clip = backbones.load("ViT-B/16", weights="random")
    ours = cases.learner(clip, NAMES[:2], cases.rows([9, 9], 4096))
    assert sum(p.numel() for p in ours.parameters()) == 3846528


def test_one_layer_alone_keeps_the_prompt_as_long_as_all_do():
    clip, llm = cases.small("openai"), cases.rows([6, 5], 40)
    first, whole = (cases.learner(clip, NAMES[:2], llm, LAYERS=layers, **SMALL) for layers in (("first",), ()))
    assert torch.equal(first.lengths, whole.lengths)
    assert [p.shape for p in first.parameters()] == [p.shape for p in whole.parameters()]
    assert torch.equal(first.h_suffix, whole.h_prefix[:, :1].expand(-1, 2, -1))


@pytest.mark.parametrize("key, value", [("KNOWLEDGE", "none"), ("LAYERS", ("middle",))])
def test_an_unknown_control_is_one_line(key, value):
    with pytest.raises(UserError, match=f"{key}.*choose"):
        cases.learner(cases.small("openai"), NAMES[:2], cases.rows([6, 5], 40), **{**SMALL, key: value})


def test_too_few_rows_and_too_long_prompts_name_the_class():
    clip = cases.small("openai")
    with pytest.raises(UserError, match="'dyed lifted polyps' has 3 LLM rows"):
        cases.learner(clip, NAMES[:2], cases.rows([6, 3], 40), **SMALL)
    with pytest.raises(UserError, match=r"immature granulocytes.*takes 77"):
        cases.learner(clip, NAMES[:7], cases.rows([6] * 6 + [70], 40), **SMALL)


def test_checkpoint_serves_other_classes_and_refuses_other_settings():
    clip = cases.small("openai")
    first = cases.learner(clip, NAMES[:4], cases.rows([6] * 4, 40), **SMALL)
    cases.wake(first)
    state = first.checkpoint_state()
    other = cases.learner(clip, NAMES[4:6], cases.rows([5, 7], 40, seed=1), **SMALL)
    other.load_checkpoint_state(state)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters()))
    assert not any("h_" in k or "frame" in k for k in state), "nothing of the classes is saved"
    wider = cases.learner(clip, NAMES[:2], cases.rows([6, 6], 48), **SMALL)
    with pytest.raises(UserError, match="another backbone, LLM"):
        wider.load_checkpoint_state(state)
    with pytest.raises(UserError, match="not of this method"):
        wider.load_checkpoint_state({"ctx": state["ctx"]})


def test_our_configuration_says_what_the_official_one_says():
    """configs/trainers/CILMP/vit_b16.yaml beside the numbers of the official file of that name (usr922/cilmp)."""
    optim = {"NAME": "sgd", "LR": 0.0025, "MAX_EPOCH": 100, "LR_SCHEDULER": "cosine", "WARMUP_EPOCH": 1,
             "WARMUP_TYPE": "constant", "WARMUP_CONS_LR": 1e-5}  # fmt: skip
    method = {"N_CTX_VISION": 4, "N_CTX_TEXT": 4, "CTX_INIT": "a photo of a", "PROMPT_DEPTH_VISION": 12,
              "PROMPT_DEPTH_TEXT": 12, "PREFIX_LENGTH": 4, "SUFFIX_LENGTH": 4, "LOW_RANK_DIMENSION": 8}  # fmt: skip
    ours = yaml.safe_load((REPO / "configs" / "trainers" / "CILMP" / "vit_b16.yaml").read_text())
    assert ours["OPTIM"] == optim and ours["INPUT"]["TRANSFORMS"] == ["random_resized_crop", "random_flip", "normalize"]
    assert ours["DATALOADER"]["TRAIN_X"]["BATCH_SIZE"] == 64 and ours["DATALOADER"]["TEST"]["BATCH_SIZE"] == 100
    assert {key: ours["TRAINER"]["CILMP"][key] for key in method} == method
    assert {key: CILMP.defaults[key] for key in method} == method
