"""What a family hands to the text tower."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import nn


@dataclass
class TextParts:
    """Modules and facts of one text tower.

    | family            | causal | pad_masked | pooled  | starts |
    |-------------------|--------|------------|---------|--------|
    | OpenAI, open_clip | yes    | -          | "eos"   | yes    |
    | BERT              | no     | yes        | "first" | yes    |
    | SigLIP, SigLIP 2  | no     | no         | "last"  | no     |
    | MetaCLIP 2        | yes    | -          | "eos"   | yes    |
    | MobileCLIP        | no     | no         | "eos"   | yes    |
    | CLIPA             | no     | no         | "last"  | yes    |

    blocks: `Block`s in order.
    token_embedding: nn.Embedding (V, d_t).
    position: nn.Parameter, at least (context_length, d_t).
    project: module (..., d_t) -> (..., d), applied after final_norm to the pooled token.
    tokenizer: (list of str, context_length=T) -> LongTensor (C, T), end token kept when cut.
    starts: whether texts begin with a start token (SOS, CLS).
    ends: whether the end token differs from the padding (SigLIP's and CLIPA's do not).
    end_id: the end token of towers that pool it; None: the largest id there is (OpenAI's).
    embed_norm, type_embedding: BERT's LayerNorm after the embeddings and its (d_t,) of token type 0.
    dropout: what it was trained with, on hidden rows and on attention weights: BERT's; others have none.
    """

    blocks: list
    token_embedding: nn.Embedding
    position: nn.Parameter
    project: nn.Module
    tokenizer: Callable
    context_length: int
    causal: bool
    pad_masked: bool
    pooled: str
    starts: bool
    pad_id: int = 0
    ends: bool = True
    end_id: int = None
    final_norm: nn.Module = field(default_factory=nn.Identity)
    embed_norm: nn.Module = None
    type_embedding: nn.Parameter = None
    dropout: tuple = (0.0, 0.0)


class Projection(nn.Module):
    """x @ weight: CLIP keeps its projections as a (width, d) matrix."""

    def __init__(self, weight):
        super().__init__()
        self.weight = nn.Parameter(weight.detach().clone())

    def forward(self, x):
        return x @ self.weight


def as_projection(weight):
    """A module from what towers keep as projection: a matrix, a Linear or nothing."""
    if weight is None:
        return nn.Identity()
    return weight if isinstance(weight, nn.Module) else Projection(torch.as_tensor(weight))
