"""What a run keeps of its data, so that using it later never needs them: kept.json, and what an LLM said.

kept.json          form, version; classes in label order; their own names where CLIP is shown others; modality and
                   wording; labels of train and val images, no names of them; INPUT as it was; plugins and their hashes,
                   and that of the method's file where it is none of ours; of a test of another run, that run's folder
knowledge.safetensors, sentences.json    LLM rows or sentences of these classes, for methods that read them

Learned tensors are beside it, in <model>/learner.safetensors. Written before the results, which say that all is there.
"""

import json
import os
from pathlib import Path

import torch
from safetensors.torch import save_file

from dassl.utils.io import atomic_path, misfit, write_json
from dassl.utils.version import number

from .plugins import hash_of
from .reads import Knowledge, code_of

FORM = 1  # of kept.json; raise it when an older reader would misread it
FILE, ROWS, SENTENCES = "kept.json", "knowledge.safetensors", "sentences.json"
TRAINED = {"classes": list, "labels": {"train_x": list, "val": list}}
FACTS = TRAINED | {"version": str, "knowledge_names": list, "phrases": dict, "input": dict, "plugins": list}
TRAINED = TRAINED | {"dataset": str}  # of a bundle: what its tensors were learned on


def misfit_of(kept):
    """What of kept.json does not fit, in words; "" where all does."""
    trained = {"trained_on": TRAINED} if "trained_on" in kept else {}
    if words := misfit(kept, FACTS | trained):
        return words
    for place, facts in (("", kept), ("trained_on.", kept.get("trained_on"))):
        labels = [label for part in (facts["labels"].values() if facts else ()) for label in part or ()]
        if bad := [n for n in labels if type(n) is not int or not 0 <= n < len(facts["classes"])]:
            return f"{place}labels hold {bad[0]!r} of {len(facts['classes'])} classes"
    return ""


def keep(trainer, folder, plugins=(), model_dir="", epoch=None):
    """Write what a built trainer's answers need besides the backbone and what it learns.

    Args:
        model_dir, epoch: of a test: the run whose tensors are loaded.
    """
    cfg, dataset = trainer.cfg, trainer.dm.dataset
    if "CHECKOUT" in cfg.RUN:  # its trainers run in a process of their own and keep what they like
        return
    names = list(getattr(dataset, "knowledge_names", dataset.classnames))
    write_json(_facts(trainer, names, plugins) | _source(folder, model_dir, epoch), Path(folder, FILE))
    if getattr(trainer, "needs_llm", False):
        _keep_knowledge(Knowledge(type(trainer), cfg), names, Path(folder))


def _facts(trainer, names, plugins):
    cfg, dataset = trainer.cfg, trainer.dm.dataset
    info = getattr(dataset, "info", None)
    parts = {part: [int(item.label) for item in getattr(dataset, part, None) or ()] for part in ("train_x", "val")}
    return {
        "form": FORM,
        "version": number(),
        "classes": list(dataset.classnames),
        "knowledge_names": names,
        "phrases": info.phrases(names) if info else {},
        "modality": getattr(dataset, "modality", ""),
        "labels": parts,
        "input": {key: list(value) if isinstance(value, tuple) else value for key, value in cfg.INPUT.items()},
        "home": getattr(info, "home", ""),
        "licence": getattr(info, "licence", ""),
        "code": code_of(type(trainer)),
        "plugins": [os.path.abspath(p) if Path(p).exists() else p for p in map(str, plugins)],
        "plugins_sha256": [hash_of(p) for p in plugins],
    }


def _source(folder, model_dir, epoch):
    """Where the learned tensors of a test lie, from its folder."""
    return {"source": os.path.relpath(model_dir, folder), "source_epoch": epoch} if model_dir else {}


def _keep_knowledge(knowledge, names, folder):
    store = knowledge.store()
    if not knowledge.rows:
        lines = store.lookup(names, knowledge.node.N_PROMPTS)
        return write_json(dict(zip(names, lines)), folder / SENTENCES)
    rows, lengths = store.lookup(names)
    tensors = {name: _shortest(r[:n]) for name, r, n in zip(names, rows, lengths.tolist())}
    facts = store.facts(names)
    words = {key: facts[key] for key in ("llm", "llm_hash", "template", "pool", "rows") if key in facts}
    asked = store.questions or {}
    said = {"questions": {n: asked.get(n, "") for n in names}, "answers": dict(zip(names, store.answers(names)))}
    metadata = words | {key: json.dumps(value, ensure_ascii=False) for key, value in said.items()}
    with atomic_path(folder / ROWS) as temporary:
        save_file(tensors, str(temporary), metadata=metadata)


def _shortest(rows):
    """float32 rows in the shortest of the store's dtypes that holds them exactly."""
    for dtype in (torch.bfloat16, torch.float16):
        if torch.equal(rows.to(dtype).float(), rows):
            return rows.to(dtype).contiguous()
    return rows.contiguous()
