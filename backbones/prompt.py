"""What a text prompt is made of: live tokens, and prompt tokens that may be overwritten layer by layer.

A `Frame` knows the fixed part of C prompts - start token, class names, '.', end token, where everything
stands - and belongs to a class set. `Frame.fill` puts a method's tokens into its slots and returns the
`PromptSequence` that a text tower encodes:

    place "end":     [start] [slot 1] [slot 2] ... [name . end]
    place "middle":  [start] [first half of slot 1] [name] [second half] [slot 2] ... [. end]
    place "front":   [start] [name] [slot 1] ... [. end]

Slots are filled with one entry per prompted layer (level). Level 0 enters at the input, where positions are
added; level i >= 1 replaces what layer i - 1 left in that slot. A slot with J levels is therefore only read
(keys, values) in layers 0..J-2, its outputs are not computed, and from layer J on it lives like any token.

Every tensor of tokens has four axes (b, c, P, d_t), b in {1, B} images and c in {1, C} classes.
"""

from dataclasses import dataclass

import torch
from torch import nn

from dassl.utils.errors import UserError

from .rank import narrow


def shared(tokens):
    """(P, d_t) -> (1, 1, P, d_t): the same for all images and classes."""
    return tokens[None, None]


def per_class(tokens):
    """(C, P, d_t) -> (1, C, P, d_t)."""
    return tokens[None]


def per_image(tokens):
    """(B, P, d_t) -> (B, 1, P, d_t)."""
    return tokens[:, None]


def narrow_tokens(tokens, images, classes):
    return narrow(tokens, images, classes) if torch.is_tensor(tokens) else tokens.narrow(images, classes)


class Ragged:
    """Which of P tokens each of C classes has: the first lengths[c] of them; the rest is padding.

    mask: (C, P) bool. index: (n,), where the n tokens stand in the flattened mask, so that what is done token by
    token can leave padding out. lengths are plain ints: a class slice needs no answer from the device.
    """

    def __init__(self, mask, lengths, index=None):
        self.mask, self.lengths = mask, lengths
        self.index = mask.flatten().nonzero().squeeze(1) if index is None else index

    def __getitem__(self, classes):
        first, last, _ = classes.indices(len(self.lengths))
        before, inside = sum(self.lengths[:first]), sum(self.lengths[first:last])
        index = self.index[before : before + inside] - first * self.mask.shape[1]
        return Ragged(self.mask[classes], self.lengths[classes], index)


@dataclass
class Segment:
    """A run of P tokens that stands at the same place in every sequence.

    levels: tokens of the levels 0..J-1, each (b, c, P, d_t) dense or LowRank.
    position: (1 or C, P) index into the position table.
    valid: Ragged, or None where all tokens count.
    """

    levels: list
    position: torch.Tensor
    valid: Ragged = None

    @property
    def depth(self):
        return len(self.levels)

    def narrow(self, images, classes):
        position = self.position[classes] if self.position.shape[0] > 1 else self.position
        valid = None if self.valid is None else self.valid[classes]
        return Segment([narrow_tokens(t, images, classes) for t in self.levels], position, valid)


@dataclass
class PromptSequence:
    """Segments in order of position, the last of them holding the pooled token of a causal tower.

    pooled: (segment index, (C,) token index in that segment).
    classes: C.
    """

    segments: list
    pooled: tuple
    classes: int

    @property
    def grid(self):
        """(B, C) as far as any token depends on the image; B = 1 otherwise."""
        return max(t.shape[0] for s in self.segments for t in s.levels), self.classes

    @property
    def live_tokens(self):
        """How many tokens of one sequence have a state in the first layer."""
        return sum(s.levels[0].shape[2] for s in self.segments if s.depth == 1)

    def narrow(self, images, classes):
        """The sequences of some images and classes (slices)."""
        where, index = self.pooled
        segments = [s.narrow(images, classes) for s in self.segments]
        return PromptSequence(segments, (where, index[classes]), len(range(self.classes)[classes]))


class Frame(nn.Module):
    """The fixed part of C prompts, for one class set; all buffers, none of them saved.

    Args:
        text: the TextTower.
        tails: C strings that follow the slots (or, for middle and front, surround them), e.g. "melanoma.".
        lengths: one entry per slot: an int, or C ints where classes differ (ragged).
        place: "end", "middle" or "front".
        names: for middle and front, C strings that `tails` begin with: what stands before the split.
        labels: C names for messages (default: tails).

    Raises:
        UserError: a prompt longer than the context, with the class and what would fit.
    """

    def __init__(self, text, tails, lengths=(), place="end", names=None, labels=None):
        super().__init__()
        if place not in ("end", "middle", "front"):
            raise UserError(f"class token position {place!r}: choose end, middle or front")
        self.classes, self.place = len(tails), place
        ids, last = text.tokenize(tails, limit=False)
        lengths = [torch.as_tensor(n).expand(self.classes) for n in lengths]
        self._check_length(text, last + 1 + sum(lengths, torch.zeros_like(last)), labels or tails, last, lengths)
        if place == "middle":
            lengths = [lengths[0] // 2, lengths[0] - lengths[0] // 2, *lengths[1:]]
        self.slots = len(lengths)
        start = int(text.starts)
        head = torch.zeros_like(last) if place == "end" else self._name_lengths(text, names)
        total = sum(lengths, torch.zeros_like(last))
        end = last + 1 if text.cut_at_end else text.context_length - total
        pieces = [("start", torch.full_like(last, start)), ("head", head), ("tail", end - start - head)]
        slots = [(i, n) for i, n in enumerate(lengths)]
        split = 1 if place == "middle" else 0
        order = [pieces[0], *slots[:split], pieces[1], *slots[split:], pieces[2]]
        self.order = [(kind, int(n.max())) for kind, n in order if int(n.max()) > 0]
        self.ragged = {}  # kind: lengths of its C runs, None where they are equal
        offset, taken = torch.zeros_like(last), torch.zeros_like(last)
        for kind, n in order:
            if int(n.max()) == 0:
                continue
            self._place(kind, n, offset, ids, taken, text)
            offset = offset + n
            if isinstance(kind, str):
                taken = taken + n
        index = {"first": torch.zeros_like(last), "eos": last - taken + self._length("tail", order)}
        index["last"] = self._length("tail", order) - 1
        kinds = [kind for kind, _ in self.order]
        self.where = kinds.index("start" if text.pooled == "first" and start else kinds[-1])
        self.register_buffer("pooled", index[text.pooled].clone(), persistent=False)

    @staticmethod
    def _length(kind, order):
        return next(n for k, n in order if k == kind)

    def _name_lengths(self, text, names):
        if names is None:
            raise ValueError("place middle and front need the names that the tails begin with")
        _, last = text.tokenize(names, limit=False)
        return last - int(text.starts)  # without start and end

    @staticmethod
    def _check_length(text, needed, labels, last, lengths):
        if int(needed.max()) <= text.context_length:
            return
        worst = int(needed.argmax())
        spare = text.context_length - int(needed[worst] - last[worst] - 1)
        raise UserError(
            f"the prompt of class {labels[worst]!r} has {int(needed[worst])} tokens, the text tower takes "
            f"{text.context_length}: its own text may have {max(spare, 0)} tokens (start and end included), it has "
            f"{int(last[worst]) + 1}; shorten the name, or use fewer context or LLM tokens"
        )

    def _place(self, kind, n, offset, ids, taken, text):
        """Register position, validity and, for fixed pieces, embeddings of one segment."""
        width = int(n.max())
        step = torch.arange(width)
        position = (offset[:, None] + step).clamp(max=text.context_length - 1)  # (C, P)
        valid = step < n[:, None]
        if bool((offset == offset[0]).all()):
            position = position[:1]
        self.register_buffer(f"{kind}_position", position, persistent=False)
        self.ragged[kind] = None if bool(valid.all()) else n.tolist()
        if self.ragged[kind]:
            self.register_buffer(f"{kind}_valid", valid, persistent=False)
            self.register_buffer(f"{kind}_index", valid.flatten().nonzero().squeeze(1), persistent=False)
        if isinstance(kind, str):
            source = (taken[:, None] + step).clamp(max=ids.shape[1] - 1)
            picked = ids.gather(1, source)
            if bool((picked == picked[0]).all()):
                picked = picked[:1]  # e.g. the start token: one for all classes
            self.register_buffer(f"{kind}_ids", picked, persistent=False)
            tokens = text.embed(picked)[None].detach()
            self.register_buffer(f"{kind}_tokens", tokens, persistent=False)

    def fill(self, *slots, words=None):
        """PromptSequence with the given slot contents.

        Args:
            slots: per slot a list of levels (b, c, P, d_t) or LowRank; all of one slot the same length.
            words: ids -> embeddings, where the token table is trained; None: the fixed words as they were.
        """
        slots = list(slots)
        if self.place == "middle":
            first = [[t[:, :, : t.shape[2] // 2] for t in slots[0]], [t[:, :, t.shape[2] // 2 :] for t in slots[0]]]
            slots = first + slots[1:]
        if len(slots) != self.slots:
            raise ValueError(f"{len(slots)} slots given, the frame has {self.slots}")
        segments = []
        for kind, n in self.order:
            levels = [self._words(kind, words)] if isinstance(kind, str) else slots[kind]
            for tokens in levels:
                if tokens.shape[2] != n:
                    raise ValueError(f"slot {kind}: {tokens.shape[2]} tokens given, the frame has {n}")
            segments.append(Segment(levels, getattr(self, f"{kind}_position"), self._valid(kind)))
        return PromptSequence(segments, (self.where, self.pooled), self.classes)

    def _valid(self, kind):
        lengths = self.ragged[kind]
        return lengths and Ragged(getattr(self, f"{kind}_valid"), lengths, getattr(self, f"{kind}_index"))

    def _words(self, kind, words):
        return getattr(self, f"{kind}_tokens") if words is None else words(getattr(self, f"{kind}_ids"))[None]
