"""The text tower in plain form: full length, everything at (B, C, T, d_t), the original blocks layer by layer.

Nothing of backbones/text.py is used; this is what its fast code has to equal.
"""

from dataclasses import dataclass

import torch


@dataclass
class Slot:
    """Prompt tokens that stand in every sentence.

    levels: tensors (B or 1, C or 1, P, d_t); level 0 enters at the input (positions added), level i is written over
        them before block i (none added). Past the last level they live on.
    at: index in the sentence's own ids before which they are inserted: an int, or C ints.
    valid: how many of the P rows class c has (C ints; default all); what follows moves up.
    """

    levels: list
    at: object = 1
    valid: object = None

    def counts(self, classes):
        P = self.levels[0].shape[2]
        return [P] * classes if self.valid is None else [int(n) for n in self.valid]

    def places(self, classes):
        return [self.at] * classes if isinstance(self.at, int) else [int(a) for a in self.at]


def plain_text(model, ids, slots=(), details=False):
    """Text features (B, C, d), not normalised.

    Args:
        model: open_clip CLIP or CustomTextCLIP.
        ids: (C, T) token ids of the sentences without prompts, padded to the full context.
        slots: `Slot`s in order of their place.
        details: also return the input tokens (B, C, T, d_t), before positions.
    """
    tower = _Bert(model) if type(getattr(model, "text", model)).__name__ == "HFTextEncoder" else _Clip(model)
    C, T = ids.shape
    B = max([1] + [level.shape[0] for s in slots for level in s.levels])
    index, real, shift = (t.to(ids.device) for t in _assemble(ids.cpu(), slots, tower))
    words = tower.embed(ids)[None].expand(B, -1, -1, -1)
    widths = [s.levels[0].shape[2] for s in slots]

    def tokens(level, fallback):
        """(B, C, T, d_t): this level's prompts in place, `fallback` elsewhere."""
        live = [s.levels[level] if level < len(s.levels) else torch.zeros_like(s.levels[0]) for s in slots]
        live = [t.expand(B, C, -1, -1) for t in live]
        pool = torch.cat([words, *live], dim=2)
        picked = pool.gather(2, index[None, :, :, None].expand(B, -1, -1, pool.shape[-1]))
        here = torch.zeros(C, T, dtype=torch.bool, device=ids.device)
        start = T
        for s, P in zip(slots, widths):
            if level < len(s.levels):
                here |= (index >= start) & (index < start + P)
            start += P
        return torch.where(here[None, :, :, None], picked, picked if fallback is None else fallback)

    prompts = tokens(0, None)
    x = tower.enter(prompts.flatten(0, 1)).unflatten(0, (B, C))
    for i, block in enumerate(tower.blocks):
        if i and any(i < len(s.levels) for s in slots):
            x = tokens(i, x)
        x = block(x.flatten(0, 1), real.repeat(B, 1)).unflatten(0, (B, C))
    features = tower.leave(x, ids, shift)
    return (features, prompts) if details else features


def plain_text_late(model, ids, levels, enters, at=1):
    """Text features (C, d), not normalised, with late tokens: (P, d_t) put in before block `enters`, and written over
    before the next blocks.

    Args:
        ids: (C, T) token ids, padded to the full context.
        at: index in the ids before which they are put in.
    """
    tower = _Bert(model) if type(getattr(model, "text", model)).__name__ == "HFTextEncoder" else _Clip(model)
    P = levels[0].shape[0]
    real = torch.ones_like(ids, dtype=torch.bool) if tower.pad_id is None else ids != tower.pad_id
    x, moved = tower.enter(tower.embed(ids)), 0
    for i, block in enumerate(tower.blocks):
        if 0 <= i - enters < len(levels):
            tokens = levels[i - enters].expand(len(ids), -1, -1)
            x = torch.cat([x[:, :at], tokens, x[:, at + moved :]], dim=1)
            if not moved:
                real, moved = torch.cat([real[:, :at], real.new_ones(len(ids), P), real[:, at:]], dim=1), P
        x = block(x, real)
    return tower.leave(x[None], ids, torch.tensor(moved))[0]


def _assemble(ids, slots, tower):
    """Index (C, T) into [words, slot 1, slot 2, ...]; which positions are real (C, T); shift of the end token (C,)."""
    C, T = ids.shape
    index, real, shift = [], [], []
    for c in range(C):
        row, cursor, offset = [], 0, T
        for s in slots:
            at, n = s.places(C)[c], s.counts(C)[c]
            row += list(range(cursor, at)) + list(range(offset, offset + n))
            cursor, offset = at, offset + s.levels[0].shape[2]
        row += list(range(cursor, T))
        moved = len(row) - T
        last = int((ids[c] != tower.pad_id).sum()) if tower.pad_id is not None else T
        assert last + moved <= T or tower.pad_id is None, "the prompt does not fit the context"
        row = row[:T]
        index.append(row)
        real.append([p >= T or (tower.pad_id is None or int(ids[c, p]) != tower.pad_id) for p in row])
        shift.append(moved)
    return torch.tensor(index), torch.tensor(real), torch.tensor(shift)


class _Clip:
    """open_clip's text transformer: causal or bidirectional, the end token or the last position pooled."""

    def __init__(self, model):
        self.text = getattr(model, "text", model)
        self.pad_id = None  # padding is never masked in these towers
        self.causal = getattr(self.text, "attn_mask", None) is not None
        self.blocks = [lambda x, real, b=b: b(x, attn_mask=self._mask(x)) for b in self.text.transformer.resblocks]

    def _mask(self, x):
        length = x.shape[1]
        return x.new_full((length, length), float("-inf")).triu(1) if self.causal else None

    def embed(self, ids):
        return self.text.token_embedding(ids)

    def enter(self, x):
        return x + self.text.positional_embedding

    def leave(self, x, ids, shift):
        x = self.text.ln_final(x)  # (B, C, T, d_t)
        pool = getattr(self.text, "text_pool_type", None) or self.text.pool_type
        if pool == "last":
            pooled = x[:, :, -1]
        else:
            eos = ids == getattr(self.text, "text_eos_id", getattr(self.text, "eos_id", None))
            end = eos.int().argmax(-1) if pool == "eos" else ids.argmax(-1)
            pooled = x[:, torch.arange(len(ids), device=x.device), end + shift]
        projection = self.text.text_projection
        return projection(pooled) if isinstance(projection, torch.nn.Module) else pooled @ projection


class _Bert:
    """A BERT encoder of transformers: bidirectional, padding masked, [CLS] pooled."""

    def __init__(self, model):
        self.text = model.text
        self.bert = model.text.transformer
        self.pad_id = self.bert.config.pad_token_id
        self.blocks = [lambda x, real, b=b: self._block(b, x, real) for b in self.bert.encoder.layer]

    @staticmethod
    def _block(block, x, real):
        mask = x.new_zeros(real.shape).masked_fill(~real, torch.finfo(x.dtype).min)[:, None, None]
        out = block(x, mask)
        return out if torch.is_tensor(out) else out[0]

    def embed(self, ids):
        return self.bert.embeddings.word_embeddings(ids)

    def enter(self, x):
        return self.bert.embeddings(inputs_embeds=x)

    def leave(self, x, ids, shift):
        first = x[:, :, 0]
        pooler = self.bert.pooler
        if pooler is not None:
            first = pooler.activation(pooler.dense(first))
        return self.text.proj(first)
