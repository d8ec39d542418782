"""Asking an LLM about each class of a data set, and storing what it had in mind (see `store` for the file).

The question goes through the tokenizer's chat template when it has one, the answer is greedy. Rows already stored
by the same LLM, in the same words and settings, are kept; what was stored in others stays in a file of its own. The
file is written as classes are finished, so an interrupted run goes on where it was.
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

from . import language_model, shelf
from .language_model import DTYPES, resolve_compute
from .llms import find, identity
from .names import check_distinct
from .store import POOLS, KnowledgeStore, entries, is_place, read_metadata

TEMPLATE = "In an image, describe the distinctive visual features of {class}."
ROWS = {
    "layers": "one a decoder layer, first to last, at the end token of question + answer; embeddings left out; the "
              "last row is after the final norm",
    "tokens": "one a token of the answer, end token included, last layer after the final norm",
}
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
        compute: of the LLM: fp32, bf16, fp16, 8bit, 4bit; auto: fp32 on CPU, bf16 on GPU, and content with rows of
            any if all are there.
        batch_size: questions answered at once. Rounding differs a little with it, so an answer may.
        force: extract again what is stored.

    Raises UserError that names the class: empty answer, a value not finite or out of range.
    """
    classnames = list(classnames)
    questions = _questions(classnames, questions, template)
    _check(pool, dtype, max_new_tokens, batch_size)
    check_distinct(classnames, dataset)
    if is_place(llm):  # rows lie there, or a class is missing
        return KnowledgeStore(dataset, llm, pool)._found(classnames)[0]
    settings = {"llm_hash": identity(llm) or find(llm).hash, "template": template, "pool": pool, "dtype": dtype,
                "compute": resolve_compute(compute, device), "max_new_tokens": str(max_new_tokens)}
    there = entries(dataset)
    done = shelf.complete(there, settings, questions, free=("compute",) if compute == "auto" else ())
    if done and not force:
        return done[0].path
    draft = _Draft.resume(dataset, llm, there, settings, questions)
    missing = [name for name in classnames if force or name not in draft.rows]
    files = find(llm)
    draft.facts |= {"dataset": dataset, "llm": str(llm), "llm_file": files.gguf}
    model = language_model.LanguageModel(llm, files, settings["compute"], device)
    draft.facts["chat_template"] = "yes" if model.has_chat_template else "no"
    bar = tqdm(total=len(missing), desc=f"{dataset}: asking {llm}", unit="class", disable=not progress)
    try:
        for i in range(0, len(missing), batch_size):
            _ask(model, missing[i: i + batch_size], questions, pool, dtype, max_new_tokens, draft)
            bar.update(min(batch_size, len(missing) - i))
            draft.save_now_and_then()
    finally:  # Ctrl-C and errors keep what is finished
        bar.close()
        draft.save()
    return draft.path


def _check(pool, dtype, max_new_tokens, batch_size):
    for name, value, choices in (("pool", pool, POOLS), ("dtype", dtype, DTYPES)):
        if value not in choices:
            raise UserError(f"{name} {value!r}: choose one of {', '.join(choices)}")
    for name, value in (("max_new_tokens", max_new_tokens), ("batch_size", batch_size)):
        if value < 1:
            raise UserError(f"{name} {value}: give a whole number above 0")


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
    def resume(cls, dataset, llm, there, settings, questions):
        """In the file of the same settings where no class was asked in other words, else in a new one; with the rows
        of every file of these settings, but for classes that are asked in other words now."""
        home = shelf.continued(there, settings, questions)
        draft = cls(home.path if home else shelf.new_path(dataset, llm, settings, questions, ".safetensors"), settings)
        for entry in [home, *there] if home else there:
            if entry.settings == settings:
                draft.take(entry, questions)
        return draft

    def take(self, entry, questions):
        old = read_metadata(entry.path)
        self.facts = {**{k: v for k, v in old.items() if isinstance(v, str)}, **self.facts}
        with safe_open(entry.path, "pt") as f:
            for name, asked in entry.words.items():
                if name not in self.rows and questions.get(name, asked) == asked:
                    self.rows[name] = f.get_tensor(name)
                    self.questions[name], self.answers[name] = asked, old["answers"].get(name, "")

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
