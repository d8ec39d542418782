"""The kinds of `KNOWLEDGE`: what classes get beside, or instead of, what the LLM said about them; in one place.

    real             the class's own rows
    wrong_modality   rows of the same class, asked about in another modality by the same template
    name_only        rows of the bare class name: the message to the LLM is the name and nothing else (its chat template
                     around it, its own answer after it, as for real)
    shuffled         the real rows of another class (a fixed rotation)
    random           random rows of equal norms
    mean             the mean of the real rows over classes, row by row

wrong_modality and name_only are asked in words of their own, so their rows lie beside the real ones (see `shelf`).
Related: WaffleCLIP (2306.07282) on words that say nothing; Layer by Layer (2502.02013) on the layers of an LLM.
"""

import dataclasses

import torch

from dassl.utils.errors import ConfigError, UserError

from .extraction import TEMPLATE, questions_for
from .store import CONTROLS_ASKED, KnowledgeStore, is_place

KINDS = ("real", "shuffled", "random", "mean", *CONTROLS_ASKED)
NAME = "{class}"  # the template of name_only
LAYERS = {"first": 0, "quarter": 1, "half": 2, "three_quarters": 3, "last": 4}  # in quarters of the rows
ELSEWHERE = ("chest X-ray image", "dermoscopy image", "fundus photograph", "abdominal CT slice")
KINDS_OF_PICTURE = {"image", "images", "photograph", "micrograph", "slice", "scan", "colour", "of", "the", "in", "and"}


def check(kind, layers=()):
    """ConfigError unless the kind is one, and the layers are (), one word, or row numbers from 0 on."""
    if kind not in KINDS:
        raise ConfigError(f"KNOWLEDGE {kind!r}: choose {', '.join(KINDS[:-1])} or {KINDS[-1]}")
    if len(layers) == 1 and layers[0] in ("all", *LAYERS):
        return
    if wrong := [n for n in layers if not isinstance(n, int) or isinstance(n, bool) or n < 0]:
        raise ConfigError(f"LAYERS {list(layers)}: {wrong[0]!r} does not fit; choose one of all, {', '.join(LAYERS)}, "
                          f"or numbers of rows from 0 on, e.g. (0, 15)")


# ---- asking


def template(kind="real"):
    """The template of a kind's questions."""
    return NAME if kind == "name_only" else TEMPLATE


def questions(info, names, kind="real"):
    """{class: what the LLM is asked about it}.

    Args:
        info: the DatasetInfo (its wording and modalities); None where there is none: names are asked as they are.

    Raises ConfigError for an unknown kind, UserError where a class has no modality to replace by another.
    """
    check(kind)
    if kind == "wrong_modality":
        info = dataclasses.replace(info, modalities=_elsewhere(info, names)) if info else _no_modality("this set")
    if info is None or kind == "name_only":
        return questions_for(names, template(kind))
    return questions_for(names, phrases=info.phrases(names))


def _elsewhere(info, names):
    """{class: another modality than its own}."""
    own = sorted({*info.modalities.values(), info.modality} - {""})
    found = {}
    for name in names:
        modality = info.modalities.get(name, info.modality)
        found[name] = another(modality, own) if modality else _no_modality(info.name, name)
    return found


def _no_modality(dataset, name=""):
    of = f" of class {name!r}" if name else ""
    raise UserError(f"KNOWLEDGE wrong_modality: {dataset} does not say the modality{of}, so there is no other one; put "
                    f'its own, as in {{"modality": "chest X-ray image"}}, into dataset.json beside its split')


def another(modality, own=()):
    """The modality that stands in for one: the next of the set's own in the alphabet, else one of ELSEWHERE; the
    first that shares no word with it but kinds of picture (a chest X-ray is no stand-in for a chest CT)."""
    own = sorted(own)
    after = [m for m in own if m > modality] + [m for m in own if m < modality]
    for other in (*after, *ELSEWHERE):
        if not _telling(other) & _telling(modality):
            return other
    raise UserError(f"KNOWLEDGE wrong_modality: no modality differs in every word from {modality!r}; say it in fewer")


def _telling(modality):
    words = set(modality.lower().replace("-", " ").replace(",", " ").split())
    return words - KINDS_OF_PICTURE


def store(dataset, llm, info, names, kind="real"):
    """The KnowledgeStore in which a kind's rows lie."""
    asked = questions(info, names, kind)
    if kind in CONTROLS_ASKED and is_place(llm):
        raise UserError(f"KNOWLEDGE {kind} asks a language model in words of its own, and {llm} holds rows as they "
                        f"are: set LLM to a language model, or KNOWLEDGE to real")
    return KnowledgeStore(dataset, llm, questions=asked, kind=kind)


# ---- changing what was found


def rows_of(h, lengths, kind, layers=()):
    """(rows, lengths) that the classes get of the rows found for a kind.

    Args:
        h: (C, L, D) zero padded; lengths (C,).
        layers: () or ("all",): every row. Row numbers from 0: these rows. One of LAYERS: that one row in every row's
            place, so that a prompt keeps its length and only what stands in it changes.
    """
    check(kind, layers)
    h, lengths = _layers(h, lengths, tuple(layers))
    if kind == "shuffled":
        return h.roll(1, dims=0), lengths.roll(1)
    if kind == "random":
        noise = torch.randn(h.shape, generator=torch.Generator().manual_seed(0))
        return noise * (h.norm(dim=-1) / noise.norm(dim=-1))[..., None], lengths
    if kind == "mean":
        inside = _inside(h, lengths)
        return h.sum(0) / inside.sum(0).clamp(min=1) * inside, lengths
    return h, lengths


def _inside(h, lengths):
    """(C, L, 1): whether a row is one of its class's, not padding."""
    return (torch.arange(h.shape[1]) < lengths[:, None])[..., None]


def _layers(h, lengths, layers):
    if layers in ((), ("all",)):
        return h, lengths
    if len(layers) == 1 and layers[0] in LAYERS:
        number = row_number(layers[0], lengths)
        return h[torch.arange(len(h)), number][:, None] * _inside(h, lengths), lengths
    if max(layers) >= int(lengths.min()):
        raise ConfigError(f"LAYERS {list(layers)}: the shortest class has {int(lengths.min())} rows")
    return h[:, list(layers)], torch.full_like(lengths, len(layers))


def row_number(word, count):
    """Number from 0 of the row that a word means among `count` rows: the first at or after that share of them."""
    return ((count * LAYERS[word] + 3) // 4 - 1).clip(min=0)
