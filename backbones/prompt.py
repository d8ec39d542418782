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

Late tokens stand behind the start token and enter before a later layer (or the first), as they are: they have no
position, move nobody else's and take no room in the context.
"""

import torch
from torch import nn

from dassl.utils.errors import UserError

from .sequence import PromptSequence, Ragged, Segment


def shared(tokens):
    """(P, d_t) -> (1, 1, P, d_t): the same for all images and classes."""
    return tokens[None, None]


def per_class(tokens):
    """(C, P, d_t) -> (1, C, P, d_t)."""
    return tokens[None]


def per_image(tokens):
    """(B, P, d_t) -> (B, 1, P, d_t)."""
    return tokens[:, None]


class Piece(nn.Module):
    """A run of at most P tokens in each of C prompts: where they stand, and which of the P a class has.

    All buffers, none of them saved.

    Args:
        offset, lengths: (C,) place of a class's first token and number of its tokens; P is the largest number.
        context: places there are.
    """

    def __init__(self, offset, lengths, context):
        super().__init__()
        self.width = int(lengths.max())
        step = torch.arange(self.width)
        position = (offset[:, None] + step).clamp(max=context - 1)  # (C, P)
        self._keep("position", _once(position) if bool((offset == offset[0]).all()) else position)
        valid = step < lengths[:, None]
        self.lengths = None if bool(valid.all()) else lengths.tolist()
        self._keep("mask", None if self.lengths is None else valid)
        self._keep("index", None if self.lengths is None else valid.flatten().nonzero().squeeze(1))

    def _keep(self, name, tensor):
        self.register_buffer(name, tensor, persistent=False)

    def segment(self, levels, enters=None):
        """Segment of tokens (b, c, P, d_t), one entry a level; enters: see Segment."""
        for tokens in levels:
            if tokens.shape[2] != self.width:
                raise ValueError(f"{tokens.shape[2]} tokens given, the frame has room for {self.width}")
        valid = None if self.lengths is None else Ragged(self.mask, self.lengths, self.index)
        return Segment(levels, self.position, valid, enters)


class Late(Piece):
    """P tokens that enter before a later block and have no position."""

    def __init__(self, width, like, context):
        super().__init__(torch.zeros_like(like), torch.full_like(like, width), context)


class Words(Piece):
    """A piece of the frame's own text.

    Args:
        text: the TextTower.
        ids: (C, T) of the text. first: (C,) index into ids of a class's first token.
    """

    def __init__(self, offset, lengths, text, ids, first):
        super().__init__(offset, lengths, text.context_length)
        source = (first[:, None] + torch.arange(self.width)).clamp(max=ids.shape[1] - 1)
        self._keep("ids", _once(ids.gather(1, source)))
        self._keep("tokens", text.embed(self.ids)[None].detach())

    def embedded(self, words=None):
        """(1, 1 or C, P, d_t); words: ids -> embeddings where the token table is trained."""
        return self.tokens if words is None else words(self.ids)[None]


def _once(x):
    """(C, P), or (1, P) where all classes have the same, as of the start token."""
    return x[:1] if bool((x == x[0]).all()) else x


class Frame(nn.Module):
    """The fixed part of C prompts, for one class set.

    Args:
        text: the TextTower.
        tails: C strings that follow the slots (or, for middle and front, surround them), e.g. "melanoma.".
        lengths: one entry per slot: an int, or C ints where classes differ (ragged); 0 leaves a slot empty.
        place: "end", "middle" or "front".
        names: for middle and front, C strings that `tails` begin with: what stands before the split.
        labels: C names for messages (default: tails).
        late: number of late tokens.

    Raises:
        UserError: a prompt longer than the context, with the class and what would fit.
    """

    def __init__(self, text, tails, lengths=(), place="end", names=None, labels=None, late=0):
        super().__init__()
        if place not in ("end", "middle", "front"):
            raise UserError(f"class token position {place!r}: choose end, middle or front")
        self.classes, self.place = len(tails), place
        ids, last = text.tokenize(tails, limit=False)
        lengths = [torch.as_tensor(n).expand(self.classes) for n in lengths]
        taken = sum(lengths, torch.zeros_like(last))
        self._check_length(text, last + 1 + taken, labels or tails, last)
        if place == "middle":
            lengths = self._halved(lengths)
        self.slots = len(lengths)

        start = torch.full_like(last, int(text.starts))
        head = torch.zeros_like(last) if place == "end" else self._name_lengths(text, names)
        tail = (last + 1 if text.cut_at_end else text.context_length - taken) - start - head
        slots, split = [(n, False) for n in lengths], int(place == "middle")
        layout = [(start, True), *slots[:split], (head, True), *slots[split:], (tail, True)]
        self.pieces = nn.ModuleList(self._pieces(text, ids, layout))
        if late:
            self.pieces.insert(1, Late(late, last, text.context_length))
        self.where, pooled = self._pooled(text.pooled, last - start - head, tail)
        self.register_buffer("pooled", pooled, persistent=False)

    @staticmethod
    def _pieces(text, ids, layout):
        """The pieces of a layout [(lengths (C,), whether they are the frame's own text)], in order."""
        offset = said = torch.zeros_like(ids[:, 0])  # tokens before a piece: all, and of the own text
        for lengths, own in layout:
            if own:
                yield Words(offset, lengths, text, ids, said)
                said = said + lengths
            else:
                yield Piece(offset, lengths, text.context_length)
            offset = offset + lengths

    def _pooled(self, kind, end, tail):
        """(segment, (C,) token of it) that the tower pools: the first of all, the end token, or the last of all."""
        count = sum(piece.width > 0 for piece in self.pieces)
        if kind == "first":
            return 0, torch.zeros_like(end)
        return count - 1, end if kind == "eos" else tail - 1

    @staticmethod
    def _halved(lengths):
        """The lengths with the first slot as two: what stands before the name, and after it."""
        first = lengths[0]
        if bool((first != first[0]).any()):
            raise ValueError("place middle halves the first slot, which must then be equally long for all classes")
        return [first // 2, first - first // 2, *lengths[1:]]

    def _name_lengths(self, text, names):
        if names is None:
            raise ValueError("place middle and front need the names that the tails begin with")
        _, last = text.tokenize(names, limit=False)
        return last - int(text.starts)  # without start and end

    @staticmethod
    def _check_length(text, needed, labels, last):
        if int(needed.max()) <= text.context_length:
            return
        worst = int(needed.argmax())
        spare = text.context_length - int(needed[worst] - last[worst] - 1)
        raise UserError(
            f"the prompt of class {labels[worst]!r} has {int(needed[worst])} tokens, the text tower takes "
            f"{text.context_length}: its own text may have {max(spare, 0)} tokens (start and end included), it has "
            f"{int(last[worst]) + 1}; shorten the name, or use fewer context or LLM tokens"
        )

    def fill(self, *slots, words=None, late=(), enters=0):
        """PromptSequence with the given slot contents.

        Args:
            slots: per slot a list of levels (b, c, P, d_t) or LowRank; all of one slot the same length.
            words: ids -> embeddings, where the token table is trained; None: the fixed words as they were.
            late: levels of the late tokens; the first is put in before block number `enters`.
        """
        slots = list(slots)
        if self.place == "middle":
            slots[:1] = zip(*(t.split([t.shape[2] // 2, t.shape[2] - t.shape[2] // 2], dim=2) for t in slots[0]))
        if len(slots) != self.slots:
            raise ValueError(f"{len(slots)} slots given, the frame has {self.slots}")
        slots = iter(slots)
        segments = [self._segment(piece, slots, words, late, enters) for piece in self.pieces]
        return PromptSequence([s for s in segments if s.width], (self.where, self.pooled), self.classes)

    @staticmethod
    def _segment(piece, slots, words, late, enters):
        if isinstance(piece, Words):
            return piece.segment([piece.embedded(words)])
        return piece.segment(list(late), enters) if isinstance(piece, Late) else piece.segment(list(next(slots)))
