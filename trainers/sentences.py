"""Unit text features (C, N, d) of what a language model says about each class: N sentences a class."""

import torch

from cilmp.knowledge import PromptEnsembles

from .learner import unit


@torch.no_grad()
def sentence_features(node, clip, context):
    """Features of N_PROMPTS sentences a class, normalised one by one.

    Args:
        node: TRAINER.<METHOD> with N_PROMPTS and SENTENCES (a JSON {class: [sentences]}; "": those by MODEL.LLM).
        context: `Context`; its dataset names the classes.

    Raises:
        UnknownName: no sentences of a class, with the command that makes them. UserError: fewer than N_PROMPTS.
    """
    dataset, info = context.dataset, getattr(context.dataset, "info", None)
    names = getattr(dataset, "knowledge_names", dataset.classnames)
    phrases = info.phrases(names) if info else None
    answers = PromptEnsembles(context.cfg.DATASET.NAME, node.SENTENCES or context.cfg.MODEL.LLM, phrases).lookup(
        names, node.N_PROMPTS
    )
    return torch.stack([unit(clip.text.encode_strings(sentences)) for sentences in answers])
