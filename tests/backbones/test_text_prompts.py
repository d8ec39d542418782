"""Prompts through the fast text tower equal the plain form: every family, depth, broadcast pattern, ragged lengths."""

import pytest
import torch
import torch.nn.functional as F

from cilmp.backbones import layer_pass, text
from cilmp.backbones.dense_pass import DensePass
from cilmp.backbones.layer_pass import LayerPass
from cilmp.backbones.rank import Basis, LowRank, RankMap
from cilmp.benchmarks.plain.text import Slot, plain_text, plain_text_late
from cilmp.tests.backbones.small_models import original, small, tokenizer
from dassl.utils.errors import UserError

FAMILIES = ("openai", "bert", "siglip")
LAYERS, B, M = 4, 3, 3
NAMES = ["cat.", "malignant tumour of the upper left lung.", "polyps.", "normal z-line, seen from above."]
C = len(NAMES)
PATTERNS = {"shared": (1, 1), "class": (1, C), "image": (B, 1), "both": (B, C)}


def tokens(pattern, depth, rows=M, seed=0, width=32):
    g = torch.Generator().manual_seed(seed)
    shape = (*PATTERNS[pattern], rows, width)
    return [(torch.randn(shape, generator=g) * 0.5).requires_grad_() for _ in range(depth)]


def unit(x):
    return F.normalize(x, dim=-1)


def weigh(features):
    """A scalar in which every feature of a full (B, C, d) grid counts differently."""
    x = unit(features).expand(B, C, -1) if features.dim() == 3 else unit(features)[None].expand(B, C, -1)
    return (x * torch.linspace(-1, 1, x.numel()).view_as(x)).sum()


def check(fast, plain, leaves):
    wide = fast if fast.dim() == 3 else fast[None]
    assert (unit(wide) - unit(plain)).abs().max() < 1e-5
    for a, b in zip(torch.autograd.grad(weigh(fast), leaves), torch.autograd.grad(weigh(plain), leaves)):
        assert b.norm() > 1e-4, "a prompt without influence proves nothing"
        assert (a - b).norm() / b.norm() < 1e-4


def sentences(family):
    model = original(family)
    return model, tokenizer(family)(NAMES, model.context_length), small(family).text


@pytest.fixture(autouse=True, params=[LayerPass, DensePass], ids=["layer_pass", "dense_pass"])
def way(request, monkeypatch):
    """Both ways through the blocks, that of a CPU and that of a GPU."""
    monkeypatch.setattr(text, "pass_on", lambda device: request.param)
    return request.param


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("depth", range(1, LAYERS + 1))
@pytest.mark.parametrize("family", FAMILIES)
def test_one_slot(family, depth, pattern):
    model, ids, text = sentences(family)
    levels = tokens(pattern, depth)
    fast = text.encode(text.frame(NAMES, [M]).fill(levels))
    assert fast.shape[:-1] == ((B, C) if "image" in pattern or pattern == "both" else (C,))
    check(fast, plain_text(model, ids, [Slot(levels, int(text.starts))]), levels)


@pytest.mark.parametrize("lengths", [[5, 2, 4, 3], [3, 5, 1, 3]])
@pytest.mark.parametrize("depth", [1, 2, LAYERS])
@pytest.mark.parametrize("family", FAMILIES)
def test_shared_context_and_ragged_rows_for_each_image_and_class(family, depth, lengths):
    """CILMP's layout; in the second case the first and last class agree, with others between."""
    model, ids, text = sentences(family)
    ctx, rows = tokens("shared", depth), tokens("both", depth, max(lengths), seed=1)
    fast = text.encode(text.frame(NAMES, [M, lengths]).fill(ctx, rows))
    start = int(text.starts)
    plain = plain_text(model, ids, [Slot(ctx, start), Slot(rows, start, lengths)])
    check(fast, plain, ctx + rows)


@pytest.mark.parametrize("depth", [1, 3, LAYERS])
@pytest.mark.parametrize("family", FAMILIES)
def test_low_rank_rows(family, depth):
    """Rows Bp u that are never written out, against the same rows written out."""
    model, ids, text = sentences(family)
    lengths = [4, 2, 4, 3]
    ctx, u = tokens("shared", depth), tokens("both", depth, 4, seed=2, width=5)
    bases = [torch.randn(32, 5, generator=torch.Generator().manual_seed(9 + i)).requires_grad_() for i in range(depth)]
    fast = text.encode(text.frame(NAMES, [M, lengths]).fill(ctx, [LowRank(a, Basis(b)) for a, b in zip(u, bases)]))
    rows = [a @ b.T for a, b in zip(u, bases)]
    start = int(text.starts)
    plain = plain_text(model, ids, [Slot(ctx, start), Slot(rows, start, lengths)])
    check(fast, plain, ctx + u + bases)


@pytest.mark.parametrize("depths", [(1, 3), (3, 1), (2, LAYERS)])
@pytest.mark.parametrize("family", FAMILIES)
def test_slots_of_different_depth(family, depths):
    model, ids, text = sentences(family)
    one, two = tokens("shared", depths[0]), tokens("image", depths[1], 2, seed=3)
    start = int(text.starts)
    fast = text.encode(text.frame(NAMES, [M, 2]).fill(one, two))
    check(fast, plain_text(model, ids, [Slot(one, start), Slot(two, start)]), one + two)


@pytest.mark.parametrize("pattern", ["shared", "class"])
@pytest.mark.parametrize("place", ["middle", "front"])
@pytest.mark.parametrize("family", FAMILIES)
def test_names_in_the_middle_or_in_front(family, place, pattern):
    model, ids, text = sentences(family)
    names = [n.rstrip(".") for n in NAMES]
    levels = tokens(pattern, 1)
    fast = text.encode(text.frame(NAMES, [M], place=place, names=names).fill(levels))
    start, pad = int(text.starts), text.pad_id
    own = tokenizer(family)(names, model.context_length)
    end = own.argmax(-1) if family == "openai" else (own != pad).sum(-1) - (0 if family == "siglip" else 1)
    half = M // 2
    if place == "front":
        slots = [Slot(levels, end)]
    else:
        slots = [Slot([t[:, :, :half] for t in levels], start), Slot([t[:, :, half:] for t in levels], end)]
    check(fast, plain_text(model, ids, slots), levels)


@pytest.mark.parametrize("chunk", [1, 2, 5, 100])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_result_does_not_depend_on_the_chunk(family, chunk):
    _, _, text = sentences(family)
    lengths = [4, 2, 4, 3]
    levels = tokens("both", 2, 4)
    prompts = text.frame(NAMES, [lengths]).fill(levels)
    whole, pieces = text.encode(prompts, chunk=10**6), text.encode(prompts, chunk=chunk)
    torch.testing.assert_close(whole, pieces, atol=1e-5, rtol=1e-5)
    for a, b in zip(torch.autograd.grad(weigh(whole), levels), torch.autograd.grad(weigh(pieces), levels)):
        assert (a - b).norm() / a.norm() < 1e-4


@pytest.mark.parametrize("family", FAMILIES)
def test_a_piece_of_the_grid_may_have_no_row_in_a_slot(family):
    """A class without rows of its own (as many LLM rows as are intervened on), alone in its piece."""
    _, _, text = sentences(family)
    levels = tokens("both", 2, 4)
    prompts = text.frame(NAMES, [[4, 0, 4, 3]]).fill(levels)
    whole, pieces = text.encode(prompts, chunk=10**6), text.encode(prompts, chunk=1)
    torch.testing.assert_close(whole, pieces, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_beyond_a_class_s_length_change_nothing(family):
    _, _, text = sentences(family)
    frame, levels = text.frame(NAMES, [[4, 2, 4, 3]]), [t.detach() for t in tokens("both", 2, 4)]
    spoiled = [t.clone() for t in levels]
    for t in spoiled:
        t[:, 1, 2:] = 1e4
        t[:, 3, 3:] = 1e4
    with torch.no_grad():
        torch.testing.assert_close(text.encode(frame.fill(levels)), text.encode(frame.fill(spoiled)))


@pytest.mark.parametrize("way", [LayerPass], indirect=True)
@pytest.mark.parametrize("family", ["openai", "bert"])
def test_padding_of_short_names_never_enters_a_block(family):
    _, _, text = sentences(family)
    seen = []
    hook = text.blocks[1].fc.register_forward_pre_hook(lambda _, x: seen.append(x[0].shape[:-1].numel()))
    with torch.no_grad():
        text.encode(text.frame(NAMES, [M]).fill(tokens("both", LAYERS)))
    hook.remove()
    words = text.tokenize(NAMES)[1]  # start is token 0, the end token stands at words: words tokens after the start
    assert words.min() < words.max()
    start = 1 if family == "openai" else B * C  # a causal start token sees itself alone: one for all
    assert seen == [start + B * int(words.sum())]


@pytest.mark.parametrize("family", FAMILIES)
def test_no_room_names_the_class_and_what_would_fit(family):
    text = small(family).text
    with pytest.raises(UserError, match="upper left lung") as error:
        text.frame(NAMES, [text.context_length - 4])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("family", FAMILIES)
def test_words_of_a_phrase_stand_where_the_sentence_has_them(family):
    """CTX_INIT's words are the sentence's own tokens, so prompts made of them say the sentence itself."""
    text = small(family).text
    words = text.embed_words("a photo of a")
    with torch.no_grad():
        said = text.encode(text.frame(NAMES, [len(words)]).fill([words[None, None]]))
        written = text.encode_strings([f"a photo of a {n}" for n in NAMES])
    assert len(words) == 4
    assert (unit(said) - unit(written)).abs().max() < 1e-5


# ---- what must not pass silently


@pytest.mark.parametrize("way", [LayerPass], indirect=True)
def test_what_depends_on_a_basis_alone_is_computed_once_for_all_that_share_it(monkeypatch):
    """Two slots in one Basis: one map a block and level, one product to values; equal numbers in another Basis are
    another map."""
    _, _, text = sentences("openai")
    made, values, spread = [], [], RankMap.values
    monkeypatch.setattr(layer_pass, "RankMap", lambda *args: made.append(1) or RankMap(*args))
    monkeypatch.setattr(RankMap, "values", lambda self, mixed: values.append(1) or spread(self, mixed))
    coordinates = tokens("both", 3, 2, width=5)
    matrices = [torch.randn(32, 5) for _ in range(3)]

    def encode(bases, others):
        slots = [[LowRank(u, b) for u, b in zip(coordinates, kind)] for kind in (bases, others)]
        with torch.no_grad():
            return text.encode(text.frame(NAMES, [2, 2]).fill(*slots))

    bases = [Basis(m) for m in matrices]
    once = encode(bases, bases)
    assert len(made) == 1, "level 0 is written out, level 2 lives on: level 1 alone is only read"
    asked = len(values)
    assert (encode(bases, [Basis(m) for m in matrices]) - once).abs().max() < 1e-5
    assert len(made) == 3 and len(values) - asked == 2 * asked > 0


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("depth", [1, LAYERS])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_grid_is_cut_by_the_tokens_that_it_really_keeps(family, depth, pattern, way, monkeypatch):
    """Names of one length: nothing is padding. A context that all share is no reason to compute anything twice."""
    _, _, text = sentences(family)
    prompts, kept = text.frame(["cat.", "dog.", "eye.", "ear."], [M]).fill(tokens(pattern, depth)), []
    own = way._step if way is LayerPass else way._block

    def spy(self, *args):
        out = own(self, *args)
        states = [self.states[j] for j in args[1]] if way is LayerPass else [out]
        kept.append(sum(x.shape[:-1].numel() for x in states))
        return out

    monkeypatch.setattr(way, own.__name__, spy)
    with torch.no_grad():
        text.encode(prompts)
    counted = way.kept(prompts, text.causal)
    assert counted == max(kept) if way is LayerPass else counted >= max(kept)
    monkeypatch.setattr(way, "NUMBERS_AT_ONCE", counted * text.width)
    assert sum(map(len, text._pieces(prompts, None))) == 1
    monkeypatch.setattr(way, "NUMBERS_AT_ONCE", counted * text.width - 1)
    assert sum(map(len, text._pieces(prompts, None))) > 1


def test_an_empty_slot_takes_no_tokens():
    _, _, text = sentences("openai")
    frame, levels = text.frame(NAMES, [M, 0]), tokens("shared", 1)
    nothing = [t[:, :, :0] for t in levels]
    with torch.no_grad():
        with_empty, without = text.encode(frame.fill(levels, nothing)), text.encode(text.frame(NAMES, [M]).fill(levels))
    assert torch.equal(with_empty, without)
    with pytest.raises(ValueError, match="3 tokens given, the frame has room for 0"):
        frame.fill(levels, levels)


def test_halves_of_ragged_slots_are_refused():
    _, _, text = sentences("openai")
    with pytest.raises(ValueError, match="equally long"):
        text.frame(NAMES, [[4, 2, 4, 3]], place="middle", names=[n.rstrip(".") for n in NAMES])


@pytest.mark.parametrize("family", FAMILIES)
def test_levels_that_no_layer_would_read(family):
    _, _, text = sentences(family)
    prompts = text.frame(NAMES, [M]).fill(tokens("shared", LAYERS + 1))
    with pytest.raises(UserError, match="prompts for 5 layers, the text tower has 4"):
        text.encode(prompts)


def test_the_first_token_of_a_text_without_a_start_may_be_a_prompt_s():
    """A tower that pools the first token of texts that begin with no start token."""
    text = small("siglip").text
    text.pooled = "first"
    levels = tokens("class", 1)
    with torch.no_grad():
        for block in text.blocks:  # nothing mixes: the feature is the pooled token alone
            for linear in (block.out, block.proj):
                linear.weight.zero_(), linear.bias.zero_()
        bare = text.encode(text.frame(NAMES, [M]).fill(levels))
        wanted = text.project(text.final_norm(levels[0][0, :, 0] + text.position[0]))
    assert torch.allclose(bare, wanted, atol=1e-6)


def test_a_text_as_long_as_the_tokenizer_s_table_is_not_cut():
    """Texts were cut at 512 tokens, so a tower with 512 places took a longer one for one that just fits."""
    text = small("bert").text
    text.context_length = 512
    with pytest.raises(UserError, match="the text tower takes 512"):
        text.frame([" ".join(["lung"] * 600)])


@pytest.mark.parametrize("enters, depth", [(0, 1), (0, LAYERS), (1, 2), (2, 2), (LAYERS - 1, 1)])
@pytest.mark.parametrize("family", FAMILIES)
def test_late_tokens(family, enters, depth):
    """Tokens that enter before a later block: behind the start token, without a position, in nobody's way."""
    model, ids, text = sentences(family)
    levels = [t[0, 0] for t in tokens("shared", depth)]
    fast = text.encode(text.frame(NAMES, late=M).fill(late=[t[None, None] for t in levels], enters=enters))
    check(fast, plain_text_late(model, ids, levels, enters, int(text.starts))[None], levels)
    bare = text.encode(text.frame(NAMES).fill())
    assert (unit(fast) - unit(bare)).abs().max() > 1e-3, "the tokens must matter"


def test_late_tokens_take_no_room():
    """A name that fills the context leaves room for them, and they come no later than the last block."""
    text = small("openai").text
    name = "cat " * 74 + "."  # with start and end 77 tokens
    frame = text.frame([name], late=M)
    late = tokens("shared", 1)
    assert text.encode(frame.fill(late=late, enters=LAYERS - 1)).shape == (1, 24)
    with pytest.raises(UserError, match="prompts for 5 layers, the text tower has 4"):
        text.encode(frame.fill(late=late, enters=LAYERS))


def test_dropout_acts_where_bert_trains_with_it(monkeypatch):
    """A stand-in for dropout that any place would show in: rows of both models go through it alike, or differ."""

    def attention(q, k, v, attn_mask=None, dropout_p=0.0, **_):
        scores = (q @ k.mT / q.shape[-1] ** 0.5).masked_fill(~attn_mask, float("-inf"))
        return F.dropout(scores.softmax(-1), dropout_p) @ v

    monkeypatch.setattr(F, "scaled_dot_product_attention", attention)  # its dropout would be one of its own
    monkeypatch.setattr(F, "dropout", lambda x, p=0.5, training=True, inplace=False: x + p * x**2 * training)
    model, clip = original("bert"), small("bert")
    model.text.transformer.config._attn_implementation = "eager"
    texts = ["a photo of a nevus.", "melanoma of the skin, seen from above."]
    ids = tokenizer("bert")(texts, clip.context_length)
    without = model.encode_text(ids)
    clip.text.dropout(True)
    noisy = clip.text.encode_strings(texts)
    assert (noisy - model.train().encode_text(ids)).abs().max() < 1e-4 < (noisy - without).abs().max() / 100
    clip.text.dropout(False)
    assert (clip.text.encode_strings(texts) - without).abs().max() < 1e-4


def test_dropout_is_another_for_every_class_and_draw():
    text = small("bert").text
    text.dropout(True)
    a, b = text.encode_strings(["nevus", "nevus"]), text.encode_strings(["nevus", "nevus"])
    assert not torch.equal(a[0], a[1]) and not torch.equal(a, b)
    clip = small("openai")
    clip.text.dropout(True)  # trained without
    assert torch.equal(clip.text.encode_strings(["nevus"]), clip.text.encode_strings(["nevus"]))
