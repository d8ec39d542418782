"""Tokenizers of the families behind one call, with the facts a text tower needs: start, end and padding."""

import functools
import hashlib
import re
import shutil
import tempfile
from pathlib import Path

import torch

from dassl.utils.io import write_json

# Ids of padding, start and end: PubMedBERT; SigLIP; SigLIP 2 (Gemma) and mT5; MetaCLIP 2 (XLM-V); CLIPA, whose end is
# padding, too.
SPECIAL = {"bert": (0, 2, 3), "siglip": (1, None, 1), "siglip2": (0, None, 1), "xlm": (1, 0, 2), "clipa": (0, 101, 0)}
OF_TOKENIZER = {"siglip2": "siglip2", "mt5": "siglip2", "xlm-v": "xlm", "bert-base-uncased": "clipa"}


class Tokenizer:
    """(texts, context_length) -> ids (C, T), padded; a text that is too long is cut, its end token kept.

    Args:
        encode: the tokenizer itself, same call.
        starts: whether texts begin with a start token.
        pad_id: id of the padding.
        ends: whether the end token differs from the padding.
        size: number of words, None where nobody asks.
    """

    def __init__(self, encode, starts, pad_id, ends=True, size=None):
        self.encode, self.starts, self.pad_id, self.ends, self.size = encode, starts, pad_id, ends, size

    def __call__(self, texts, context_length):
        return self.encode(list(texts), context_length=context_length)


@functools.cache  # 0.4 s, and many runs of a process build a backbone
def clip_bpe():
    """OpenAI's byte pair encoding, which ships with open_clip."""
    from open_clip.tokenizer import SimpleTokenizer

    return Tokenizer(SimpleTokenizer(), starts=True, pad_id=0)


def transformers_tokenizer(folder, **kwargs):
    """A tokenizer of transformers in a folder; kwargs as in open_clip's `tokenizer_kwargs`.

    These come from a repository, too, and can't allow what it brings to be run: a tokenizer that needs Python code of
    its own is a ValueError.
    """
    from open_clip.tokenizer import HFTokenizer

    encode = HFTokenizer(str(folder), **{**kwargs, "trust_remote_code": False})
    inner = encode.tokenizer
    empty = encode([""], context_length=8)[0]
    starts, pad = int(empty[0]) in (inner.cls_token_id, inner.bos_token_id), inner.pad_token_id
    return Tokenizer(encode, starts, pad, ends=int((empty != pad).sum()) > int(starts), size=len(inner))


def told(error):
    """Why a tokenizer or model can't be built, in a few words."""
    if "custom code" in str(error) or "trust_remote_code" in str(error):
        return "it needs Python code from its repository, which is never run"
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def local_tokenizer(folder, **kwargs):
    """The tokenizer whose files lie in a folder, or None; a lone vocab.txt is taken for uncased BERT's."""
    folder = Path(folder)
    if (folder / "tokenizer_config.json").is_file():
        return transformers_tokenizer(folder, **kwargs)
    if not (folder / "vocab.txt").is_file():
        return None
    with tempfile.TemporaryDirectory() as copy:
        shutil.copy(folder / "vocab.txt", copy)
        write_json({"tokenizer_class": "BertTokenizer", "do_lower_case": True}, Path(copy) / "tokenizer_config.json")
        return transformers_tokenizer(copy, **kwargs)


def kind_of(text_cfg):
    """Which of SPECIAL's kinds the vocabulary of an open_clip text configuration is."""
    if "hf_model_name" in text_cfg:
        return "bert"
    name = text_cfg["hf_tokenizer_name"].lower()
    return next((kind for part, kind in OF_TOKENIZER.items() if part in name), "siglip")


def stand_in(kind, vocabulary):
    """A deterministic tokenizer for random weights of architectures with a vocabulary of their own: needs no download.

    Its ids are NOT those of any published vocabulary: words are cut into pieces of at most six letters, a piece's
    id is a hash of it. Good for benchmarks and tests, meaningless with trained weights.
    """
    pad, start, end = SPECIAL[kind]

    def piece(text):
        digest = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
        return 5 + digest % (vocabulary - 5)

    def ids(text, length):
        words = re.findall(r"\w+|[^\w\s]", text.lower())
        body = [piece(w[i : i + 6]) for w in words for i in range(0, len(w), 6)]
        body = body[: length - 1 - (start is not None)]
        row = ([] if start is None else [start]) + body + [end]
        return row + [pad] * (length - len(row))

    def encode(texts, context_length):
        return torch.tensor([ids(t, context_length) for t in texts], dtype=torch.long)

    return Tokenizer(encode, starts=start is not None, pad_id=pad, ends=end != pad)
