"""What a language model knows about a class: extracting it, storing it, looking it up. Reading needs no LLM library.

    knowledge.extract("busi", classnames, "smollm2-135m")        rows and answers, into the cache
    h, lengths = knowledge.KnowledgeStore("busi", "smollm2-135m").lookup(classnames)   (C, K, D), (C,)
    knowledge.sample("busi", classnames, "smollm2-135m", n=50)   many sentences a class
    knowledge.PromptEnsembles("busi", "smollm2-135m").lookup(classnames, 50)
"""

from . import controls
from .answers import PromptEnsembles, sample
from .extraction import TEMPLATE, extract, questions_for
from .llms import known, llm_slug
from .store import KnowledgeStore, available, extraction_command

__all__ = ["TEMPLATE", "KnowledgeStore", "PromptEnsembles", "available", "controls", "extract", "extraction_command",
           "known", "llm_slug", "questions_for", "sample"]
