"""Asking an LLM about each class of a data set, and storing what it had in mind (see `store` for the file).

The question goes through the tokenizer's chat template when it has one, the answer is greedy. Rows already stored
by the same LLM, in the same words and settings, are kept; the file is written as classes are finished, so an
interrupted run goes on where it was.
"""

import json
import platform
import time

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from tqdm import tqdm

from dassl.utils.errors import UserError
from dassl.utils.io import atomic_path

from . import language_model
from .language_model import DTYPES, resolve_compute
from .llms import find
from .names import check_distinct
from .store import cached_path, read_metadata, shipped_path

TEMPLATE = "In an image, describe the distinctive visual features of {class}."
ROWS = {
    "layers": "one a decoder layer, first to last, at the end token of question + answer; embeddings left out; the "
              "last row is after the final norm",
    "tokens": "one a token of the answer, end token included, last layer after the final norm",
}
SETTINGS = ("llm_hash", "template", "pool", "dtype", "compute", "max_new_tokens")  # rows of one file agree in these
SAVE_SECONDS = 5.0


def questions_for(classnames, template=TEMPLATE, phrases=None):
    """{class: question}; `phrases` {class: wording} replaces bare class names in it."""
    if "{class}" not in template:
        raise UserError(f"template {template!r}: it must hold {{class}}, where the class name goes")
    return {name: template.replace("{class}", (phrases or {}).get(name, name)) for name in classnames}


def extract(dataset, classnames, llm, questions=None, template=TEMPLATE, pool="layers", dtype="fp32", compute="auto",
            device="auto", max_new_tokens=128, batch_size=1, progress=True, force=False):
    """Path of the store that holds a row set for every class; only what is missing is extracted.

    Args:
        dataset: its name; the store is looked up by it.
        classnames: the classes, by the names they are looked up by.
        llm: short name, hub id, model folder or GGUF file.
        questions: {class: text} or a list in the order of classnames; default: template with the bare name.
        pool: "layers" or "tokens", see ROWS.
        dtype: of the stored rows: fp32, bf16, or fp16 (an error where a value is out of its range).
        compute: of the LLM: auto (fp32 on CPU, bf16 on GPU), fp32, bf16, fp16, 8bit, 4bit.
        batch_size: questions answered at once. Rounding differs a little with it, so an answer may.
        force: extract again what is stored.

    Raises UserError that names the class: empty answer, a value not finite or out of range.
    """
    classnames, path = list(classnames), cached_path(dataset, llm, pool)
    questions = _questions(classnames, questions, template)
    if dtype not in DTYPES:
        raise UserError(f"dtype {dtype!r}: choose one of {', '.join(DTYPES)}")
    check_distinct(classnames, dataset)
    files = find(llm)
    settings = {"llm_hash": files.hash, "template": template, "pool": pool, "dtype": dtype,
                "compute": resolve_compute(compute, device), "max_new_tokens": str(max_new_tokens)}
    shipped = shipped_path(dataset, llm, pool)
    start = path if path.is_file() else shipped
    draft = _Draft.resume(start, path, settings, {} if force else questions)
    missing = [name for name in classnames if force or name not in draft.rows]
    if not missing:
        return start
    draft.facts |= {"dataset": dataset, "llm": str(llm), "llm_file": files.gguf}
    model = language_model.LanguageModel(llm, files, settings["compute"], device)
    draft.facts["chat_template"] = "yes" if model.has_chat_template else "no"
    bar = tqdm(total=len(missing), desc=f"{dataset}: asking {llm}", unit="class", disable=not progress)
    try:
        for i in range(0, len(missing), max(1, batch_size)):
            _ask(model, missing[i: i + max(1, batch_size)], questions, pool, dtype, max_new_tokens, draft)
            bar.update(min(batch_size, len(missing) - i))
            draft.save_now_and_then()
    finally:  # Ctrl-C and errors keep what is finished
        bar.close()
        draft.save()
    return path


def _questions(classnames, questions, template):
    defaults = questions_for(classnames, template)
    if questions is None:
        return defaults
    if not isinstance(questions, dict):
        questions = dict(zip(classnames, questions))
    return {name: questions.get(name, defaults[name]) for name in classnames}


def _ask(model, names, questions, pool, dtype, max_new_tokens, draft):
    """One batch of classes: answers together, rows one by one (so they do not depend on the batch)."""
    prompts = [model.prompt(questions[name]) for name in names]
    for name, prompt, ids in zip(names, prompts, model.answer(prompts, max_new_tokens)):
        rows = stored_form(model.rows(prompt, ids, pool), dtype, name)
        answer = model.text(ids)
        if not answer:
            why = "" if model.has_chat_template else " (its tokenizer has no chat template: is it an Instruct model?)"
            raise UserError(f"LLM {model.name} answered nothing about class {name!r}{why}; another --template or LLM "
                            f"may help. Asked: {questions[name]}")
        draft.add(name, rows, questions[name], answer)


def stored_form(rows, dtype, name):
    """rows (K, D) fp32 in the stored dtype; UserError naming the class where they are not finite or do not fit."""
    if not torch.isfinite(rows).all():
        raise UserError(f"class {name!r}: the LLM gave a row that is not finite; compute in a wider type "
                        f"(--compute bf16 or fp32)")
    largest, limit = float(rows.abs().max()), torch.finfo(DTYPES[dtype]).max
    if largest > limit:
        raise UserError(f"class {name!r}: the value {largest:.4g} does not fit {dtype} (at most {limit:.4g}); use "
                        f"--dtype bf16 or fp32")
    return rows.to(DTYPES[dtype]).contiguous()


class _Draft:
    """The rows of a store while it grows."""

    def __init__(self, path, settings):
        self.path, self.rows, self.questions, self.answers = path, {}, {}, {}
        self.facts, self.changed, self.saved_at = dict(settings), False, time.monotonic()

    @classmethod
    def resume(cls, source, path, settings, questions):
        """From the rows of `source` that were made with the same settings and, where asked again, in these words."""
        draft = cls(path, settings)
        if not source.is_file():
            return draft
        old = read_metadata(source)
        if any(old.get(key) != settings[key] for key in SETTINGS):
            return draft
        draft.facts = {k: v for k, v in old.items() if isinstance(v, str)}
        with safe_open(source, "pt") as f:
            for name in old["classes"]:
                asked = old["questions"].get(name, "")
                if questions.get(name, asked) == asked:
                    draft.rows[name] = f.get_tensor(name)
                    draft.questions[name], draft.answers[name] = asked, old["answers"].get(name, "")
        return draft

    def add(self, name, rows, question, answer):
        self.rows[name], self.questions[name], self.answers[name], self.changed = rows, question, answer, True

    def save_now_and_then(self):
        if time.monotonic() - self.saved_at > SAVE_SECONDS:
            self.save()

    def save(self):
        """Write the file whole; nothing is written where nothing was added."""
        if not self.changed:
            return
        metadata = {**self.facts, "schema": "1", "rows": ROWS[self.facts["pool"]],
                    "questions": json.dumps(self.questions, ensure_ascii=False),
                    "answers": json.dumps(self.answers, ensure_ascii=False), "versions": json.dumps(_versions())}
        with atomic_path(self.path) as temporary:
            save_file(self.rows, temporary, metadata=metadata)
        self.changed, self.saved_at = False, time.monotonic()


def _versions():
    import transformers

    return {"python": platform.python_version(), "torch": torch.__version__, "transformers": transformers.__version__}
