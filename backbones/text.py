"""The text tower: encodes PromptSequences of any CLIP family, computing only what the feature depends on.

    live tokens     have a state in every layer: start, name, '.', end - and prompts past the deepest level
    prompt tokens   that the next layer overwrites: keys and values only, no query, no MLP
    causal towers   a token group depends on what stands before it: groups shared by all classes or images
                    stay shared; nothing after the end token is computed; the last layer has one query
    padding         bidirectional towers mask it (BERT) or keep it (SigLIP), as the family declares

`benchmarks/plain/text.py` is the same mathematics written out at full length.
"""

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from dassl.utils.errors import UserError

from .attention import DenseKV, attend
from .prompt import Frame
from .rank import LowRank, RankKV, RankMap

# Tokens whose layer states are kept at once (times width): 4096 tokens of width 512, about 1.5 GiB over 12 layers
# in training. A larger (image, class) grid runs in pieces that are recomputed in backward.
TOKENS_AT_ONCE = 2**21


class TextTower(nn.Module):
    """Text side of a PromptableCLIP over TextParts (the family's blocks, embeddings and facts)."""

    def __init__(self, parts):
        super().__init__()
        self.blocks = nn.ModuleList(parts.blocks)
        self.token_embedding = parts.token_embedding
        self.position = parts.position
        self.type_embedding = parts.type_embedding
        self.embed_norm = parts.embed_norm
        self.final_norm = parts.final_norm
        self.project = parts.project
        self.tokenizer = parts.tokenizer
        self.causal, self.pad_masked, self.pooled = parts.causal, parts.pad_masked, parts.pooled
        self.context_length, self.starts = parts.context_length, parts.starts
        self.ends, self.pad_id = parts.ends, parts.pad_id
        self.heads = parts.heads

    @property
    def width(self):
        return self.token_embedding.embedding_dim

    @property
    def cut_at_end(self):
        """Whether tokens after the end token cannot matter."""
        return self.causal or self.pad_masked

    # ---- strings -> tokens

    def tokenize(self, texts, limit=True):
        """Ids (C, T) and the index of the end token (C,).

        Raises:
            UserError: a text longer than the context (only with `limit`), naming it.
        """
        width = max(self.context_length, 512)
        ids = self.tokenizer(list(texts), context_length=width)
        last = ids.argmax(-1) if self.pooled == "eos" else (ids != self.pad_id).sum(-1) - int(self.ends)
        if limit and int(last.max()) >= self.context_length:
            worst = int(last.argmax())
            raise UserError(
                f"text {texts[worst]!r} has {int(last[worst]) + 1} tokens, the text tower takes {self.context_length}"
            )
        return (ids[:, : self.context_length] if limit else ids), last

    def embed(self, ids):
        """(C, T) -> (C, T, d_t), no positions added."""
        return self.token_embedding(ids.to(self.token_embedding.weight.device))

    def embed_words(self, phrase):
        """Embeddings (n, d_t) of a phrase's own tokens, without start and end: the classical CTX_INIT."""
        ids, last = self.tokenize([phrase])
        return self.embed(ids[0, int(self.starts) : int(last[0])]).detach().clone().float()

    def frame(self, tails, lengths=(), **kwargs):
        """A Frame over this tower, on its device (see backbones.prompt)."""
        return Frame(self, tails, lengths, **kwargs).to(self.position.device)

    # ---- tokens -> features

    def encode_strings(self, texts, batch=256):
        """Features (C, d) of plain sentences, not normalised."""
        texts = list(texts)
        parts = [self.encode(self.frame(texts[i : i + batch]).fill()) for i in range(0, len(texts), batch)]
        return torch.cat(parts)

    def encode(self, prompts, chunk=None):
        """Features of a PromptSequence, not normalised.

        Args:
            prompts: PromptSequence.
            chunk: (image, class) pairs at once; default from the shapes alone.

        Returns:
            (C, d), or (B, C, d) if any token depends on the image.
        """
        pieces = self._pieces(prompts, chunk)
        if len(pieces) == 1 and len(pieces[0]) == 1:
            features = self._encode(prompts)
        else:
            rows = [torch.cat([self._encode_lean(prompts.narrow(*at)) for at in row], dim=1) for row in pieces]
            features = torch.cat(rows)
        return features if prompts.grid[0] > 1 else features[0]

    def _pieces(self, prompts, chunk):
        """Rows of (image slice, class slice) that cover the grid, each at most `chunk` pairs."""
        images, classes = prompts.grid
        if chunk is None:
            chunk = max(1, TOKENS_AT_ONCE // (self.width * prompts.live_tokens))
        c = min(classes, chunk)
        b = max(1, chunk // c)
        return [
            [(slice(i, min(i + b, images)), slice(j, min(j + c, classes))) for j in range(0, classes, c)]
            for i in range(0, images, b)
        ]

    def _encode_lean(self, prompts):
        if torch.is_grad_enabled():
            return checkpoint(self._encode, prompts, use_reentrant=False)
        return self._encode(prompts)

    def _encode(self, prompts):
        """(b, c, d) of one piece."""
        segments = prompts.segments
        where, index = prompts.pooled
        final = len(self.blocks) - 1
        states = [rows(self._enter(s), s) for s in segments]
        biases = {}
        for i, block in enumerate(self.blocks):
            if i:
                states = [self._level(s, i) if i < s.depth else x for s, x in zip(segments, states)]
            if i < final:
                wanted = [j for j, s in enumerate(segments) if i + 1 >= s.depth]
                states = self._layer(block, states, wanted, segments, biases)
            else:
                states = self._pool_layer(block, states, segments, where, index)
        pooled = states.squeeze(2)  # (b, c, d_t)
        return self.project(self.final_norm(pooled)).expand(-1, prompts.classes, -1)

    def _enter(self, segment):
        """Input states of a segment: positions (and BERT's type and norm) added."""
        tokens = segment.levels[0]
        tokens = tokens if torch.is_tensor(tokens) else tokens.dense()
        x = tokens.to(self.position.dtype) + self.position[segment.position]
        if self.type_embedding is not None:
            x = x + self.type_embedding
        return x if self.embed_norm is None else self.embed_norm(x)

    def _level(self, segment, i):
        """Prompt tokens of level i: rows, or LowRank as it is."""
        tokens = segment.levels[i]
        return tokens if isinstance(tokens, LowRank) else rows(tokens.to(self.position.dtype), segment)

    def _dense(self, x, segment):
        return rows(x.dense().to(self.position.dtype), segment) if isinstance(x, LowRank) else x

    def _layer(self, block, states, wanted, segments, biases):
        """States after a block for the wanted segments; the others keep theirs (they are overwritten next)."""
        states = [self._dense(x, segments[j]) if j in wanted else x for j, x in enumerate(states)]
        inputs, groups = self._keys_values(block, states, segments)
        queries = _packed(block.q, [inputs[j] for j in wanted])
        mixed = []
        for j, q in zip(wanted, queries):
            seen = self._seen(j, len(states))
            if j not in biases:
                biases[j] = self._bias(j, seen, segments)
            q = grid(q, segments[j]).unflatten(-1, (block.heads, -1))
            mixed.append(attend(q, [groups[k] for k in seen], biases[j]).flatten(-2))
        grown = [_grow(states[j], segments[j], m) for j, m in zip(wanted, mixed)]
        mixed = [rows(m, segments[j]) for j, m in zip(wanted, mixed)]
        states = list(states)
        for j, x in zip(wanted, _packed(block.finish, grown, mixed)):
            states[j] = x
        return states

    def _pool_layer(self, block, states, segments, where, index):
        """The last block for the pooled token alone: (b, c, 1, d_t)."""
        segment = segments[where]
        states = [self._dense(x, segment) if j == where else x for j, x in enumerate(states)]
        inputs, groups = self._keys_values(block, states, segments)
        x, y = _pick(grid(states[where], segment), index), _pick(grid(inputs[where], segment), index)
        seen = self._seen(where, len(states))
        bias = self._bias(where, seen, segments, only=index)
        q = block.q(y).unflatten(-1, (block.heads, -1))
        mixed = attend(q, [groups[k] for k in seen], bias).flatten(-2)
        return block.finish(x.expand(*mixed.shape[:2], -1, -1), mixed)

    def _seen(self, j, n):
        """Segments that segment j looks at."""
        return list(range(j + 1)) if self.causal else list(range(n))

    def _keys_values(self, block, states, segments):
        """Normed input rows (dense segments; None for low rank) and the key/value group of every segment."""
        dense = [j for j, x in enumerate(states) if torch.is_tensor(x)]
        inputs = dict(zip(dense, _packed(block.attend_input, [states[j] for j in dense])))
        groups, maps = [None] * len(states), {}
        keys, values = _packed(block.k, list(inputs.values())), _packed(block.v, list(inputs.values()))
        for j, k, v in zip(dense, keys, values):
            k, v = grid(k, segments[j]), grid(v, segments[j])
            groups[j] = DenseKV(k.unflatten(-1, (block.heads, -1)), v.unflatten(-1, (block.heads, -1)))
        for j, x in enumerate(states):
            if isinstance(x, LowRank):
                if id(x.basis) not in maps:
                    maps[id(x.basis)] = RankMap(block, x.basis)
                groups[j] = RankKV(x.u, maps[id(x.basis)])
        return inputs, groups

    def _bias(self, j, seen, segments, only=None):
        """Additive mask (1, 1 or C, 1, s, keys) of segment j's queries, or None if they see everything.

        only: (C,) index of the single query kept, in the last layer.
        """
        size = [s.levels[0].shape[2] for s in segments]
        if all(segments[k].valid is None for k in seen if k != j or not self.causal) and (
            not self.causal or (size[j] == 1 and only is None)
        ):
            return None
        queries = torch.arange(size[j], device=self.position.device)[None] if only is None else only[:, None]
        visible = []
        for k in seen:
            valid = segments[k].valid and segments[k].valid.mask
            if k == j and self.causal:
                keys = torch.arange(size[k], device=self.position.device)
                visible.append(keys <= queries[:, :, None])  # (1 or C, s, P)
            elif valid is not None:
                visible.append(valid[:, None].expand(-1, queries.shape[1], -1))
            else:
                visible.append(torch.ones(1, queries.shape[1], size[k], dtype=torch.bool, device=queries.device))
        classes = max(v.shape[0] for v in visible)
        visible = torch.cat([v.expand(classes, -1, -1) for v in visible], dim=-1)
        bias = torch.zeros(visible.shape, device=visible.device).masked_fill_(~visible, float("-inf"))
        return bias[None, :, None]


class Pack(torch.autograd.Function):
    """(b, N, w) -> (b, n, w): the rows at `index`, a row at most once."""

    @staticmethod
    def forward(ctx, x, index):
        ctx.save_for_backward(index)
        ctx.full = x.shape[1]
        return x.index_select(1, index)

    @staticmethod
    def backward(ctx, grad):
        return Unpack.apply(grad, *ctx.saved_tensors, ctx.full), None


class Unpack(torch.autograd.Function):
    """The reverse of `Pack`; rows that are not at `index` are zero."""

    @staticmethod
    def forward(ctx, x, index, full):
        ctx.save_for_backward(index)
        return x.new_zeros(x.shape[0], full, x.shape[2]).index_copy_(1, index, x)

    @staticmethod
    def backward(ctx, grad):
        return Pack.apply(grad, *ctx.saved_tensors), None, None


def rows(x, segment):
    """Tokens (b, c, P, w) of a segment as rows (b, n, w), padding left out; a ragged segment has c = C."""
    if segment.valid is None:
        return x.flatten(1, 2)
    return Pack.apply(x.expand(-1, len(segment.valid.lengths), -1, -1).flatten(1, 2), segment.valid.index)


def grid(x, segment):
    """The reverse of `rows`, padding zero."""
    width = segment.position.shape[1]
    if segment.valid is None:
        return x.unflatten(1, (-1, width))
    full = len(segment.valid.lengths) * width
    return Unpack.apply(x, segment.valid.index, full).unflatten(1, (-1, width))


def _grow(x, segment, mixed):
    """Rows x (b, n, w) for as many images and classes as `mixed` (B, C, P, w) has."""
    if segment.valid is not None:
        return x.expand(mixed.shape[0], -1, -1)
    return x.unflatten(1, (-1, mixed.shape[2])).expand(*mixed.shape[:2], -1, -1).flatten(1, 2)


def _packed(function, *columns):
    """Apply a row-wise function to lists of tensors (..., w) as one batch of rows; lists in, list out."""
    shapes = [x.shape[:-1] for x in columns[0]]
    stacked = [torch.cat([x.reshape(-1, x.shape[-1]) for x in column]) for column in columns]
    parts = function(*stacked).split([s.numel() for s in shapes])
    return [p.reshape(*s, -1) for p, s in zip(parts, shapes)]


def _pick(x, index):
    """Token index[c] of every class: (b, c, P, w) -> (b, c', 1, w)."""
    if x.shape[2] == 1:
        return x
    if bool(x.shape[1] == 1) and index.numel() > 1:
        x = x.expand(-1, index.numel(), -1, -1)
    index = index[None, :, None, None].expand(x.shape[0], -1, 1, x.shape[-1])
    return x.gather(2, index)
