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

from .autocast import own_precision
from .blocks import dropped
from .dense_pass import DensePass
from .layer_pass import LayerPass
from .prompt import Frame
from .rows import exporting


def pass_on(device):
    """How prompts pass through the blocks: LayerPass multiplies least, DensePass starts the fewest operations."""
    return DensePass if device.type == "cuda" else LayerPass


class TextTower(nn.Module):
    """Text side of a PromptableCLIP over TextParts (the family's blocks, embeddings and facts).

    autocast: dtype that `encode` computes in, or None.
    drop: dropout in force, on hidden rows and on attention weights; see `dropout`.
    """

    autocast = None
    drop = (0.0, 0.0)

    def __init__(self, parts):
        super().__init__()
        self.blocks, self.trained_with = nn.ModuleList(parts.blocks), parts.dropout
        self.token_embedding = parts.token_embedding
        self.position = parts.position
        self.type_embedding = parts.type_embedding
        self.embed_norm = parts.embed_norm
        self.final_norm = parts.final_norm
        self.project = parts.project
        self.tokenizer = parts.tokenizer
        self.causal, self.pad_masked, self.pooled = parts.causal, parts.pad_masked, parts.pooled
        self.context_length, self.starts = parts.context_length, parts.starts
        self.ends, self.end_id, self.pad_id = parts.ends, parts.end_id, parts.pad_id

    @property
    def width(self):
        return self.token_embedding.embedding_dim

    @property
    def cut_at_end(self):
        """Whether tokens after the end token cannot matter."""
        return self.causal or self.pad_masked

    def dropout(self, on):
        """Switch the dropout on or off that the tower was trained with (BERT's; other towers have none)."""
        self.drop = self.trained_with if on else (0.0, 0.0)
        for block in self.blocks:
            block.drop = self.drop[0]

    # ---- strings -> tokens

    def tokenize(self, texts, limit=True):
        """Ids (C, T) and the index of the end token (C,).

        Raises:
            UserError: a text longer than the context (only with `limit`), naming it.
        """
        width = max(self.context_length + 1, 512)  # wide enough that a text which does not fit is not cut to fit
        ids = self.tokenizer(list(texts), context_length=width)
        last = self._last(ids)
        if limit and int(last.max()) >= self.context_length:
            worst = int(last.argmax())
            raise UserError(
                f"text {texts[worst]!r} has {int(last[worst]) + 1} tokens, the text tower takes {self.context_length}"
            )
        return (ids[:, : self.context_length] if limit else ids), last

    def _last(self, ids):
        """Index (C,) of the end token, or of the last word where the end is padding."""
        if self.pooled != "eos":
            return (ids != self.pad_id).sum(-1) - int(self.ends)
        return ids.argmax(-1) if self.end_id is None else (ids == self.end_id).int().argmax(-1)

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

    @own_precision
    def encode(self, prompts, chunk=None):
        """Features of a PromptSequence, float32, not normalised.

        Args:
            prompts: PromptSequence.
            chunk: (image, class) pairs at once; default from the shapes alone.

        Returns:
            (C, d), or (B, C, d) if any token depends on the image.

        Raises:
            UserError: prompts for more layers than there are.
        """
        if prompts.depth > len(self.blocks):
            raise UserError(f"prompts for {prompts.depth} layers, the text tower has {len(self.blocks)}")
        pieces = [] if exporting() else self._pieces(prompts, chunk)  # a graph is for any B: whole
        if sum(map(len, pieces)) <= 1:
            features = self._encode(prompts)
        else:
            rows = [torch.cat([self._encode_lean(prompts.narrow(*at)) for at in row], dim=1) for row in pieces]
            features = torch.cat(rows)
        return features if prompts.grid[0] > 1 else features[0]

    def _pieces(self, prompts, chunk):
        """Rows of (image slice, class slice) that cover the grid, each at most `chunk` pairs."""
        images, classes = prompts.grid
        if chunk is None:
            way = pass_on(self.position.device)
            chunk = max(1, images * classes * way.NUMBERS_AT_ONCE // (self.width * way.kept(prompts, self.causal)))
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
        entered = (self._enter(segment, prompts.classes) for segment in prompts.segments)
        way = pass_on(self.position.device)
        pooled = way(prompts, entered, self.causal, self.position.dtype, self.drop[1]).through(self.blocks)
        return self.project(self.final_norm(pooled)).expand(-1, prompts.classes, -1)

    def _enter(self, segment, classes):
        """Level 0 of a segment as the first block reads it: positions (and BERT's type and norm) added; None where it
        enters later; under dropout every class has noise of its own."""
        if segment.enters is not None:
            return None
        tokens = segment.levels[0]
        tokens = tokens if torch.is_tensor(tokens) else tokens.dense()
        x = tokens.to(self.position.dtype) + self.position[segment.position]
        if self.type_embedding is not None:
            x = x + self.type_embedding
        x = x if self.embed_norm is None else self.embed_norm(x)
        return dropped(x.expand(-1, classes, -1, -1), self.drop[0]) if self.drop[0] else x
