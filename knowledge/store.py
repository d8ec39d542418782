"""Reading stored representations: one file a data set and LLM, classes looked up by name.

K is the number of LLM rows (a decoder layer, or a token, each), D the LLM's width, C the classes.
Nothing here imports an LLM library.

A store is one safetensors file. Tensor "<class name>" is (K_c, D), fp32, bf16 or fp16; the metadata are strings:
    schema, dataset, llm, llm_file (of a GGUF), llm_hash (SHA-256 or hub revision), template, chat_template, pool,
    rows (in words), dtype, compute, max_new_tokens; as JSON: questions {class: text}, answers {class: text}, versions.
"""

import json
import shlex
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from dassl.utils.errors import UnknownName, UserError
from dassl.utils.paths import REPO, cache_root, slug

from .llms import llm_slug
from .names import match
from .official import is_official, official_folder, read_folder, read_pth

SHIPPED = REPO / "knowledge" / "stored"
POOLS = ("layers", "tokens")


def store_name(dataset, llm, pool="layers"):
    """Path of a store below its root, e.g. busi/meta-llama-Meta-Llama-3-8B.safetensors."""
    if pool not in POOLS:
        raise UserError(f"pool {pool!r}: choose layers (a row for each decoder layer) or tokens")
    suffix = "" if pool == "layers" else f"-{pool}"
    return Path(slug(dataset).lower()) / f"{llm_slug(llm)}{suffix}.safetensors"


def cached_path(dataset, llm, pool="layers"):
    """Where extraction writes: under the cache, never in the repository."""
    return cache_root() / "knowledge" / store_name(dataset, llm, pool)


def shipped_path(dataset, llm, pool="layers"):
    """Where the repository's own, read-only rows would be."""
    return SHIPPED / store_name(dataset, llm, pool)


def extraction_command(dataset, llm, pool="layers", classnames=()):
    """What to type to make representations."""
    words = ["python", "scripts/extract_knowledge.py", "--dataset", dataset, "--llm", str(llm)]
    words += ["--pool", pool] if pool != "layers" else []
    words += ["--classes", ";".join(classnames)] if classnames else []
    return shlex.join(words)


def read_metadata(path):
    """The metadata of a store with its JSON entries parsed; UserError where the file is not one."""
    try:
        with safe_open(path, "pt") as f:
            metadata = dict(f.metadata() or {})
            metadata["classes"] = list(f.keys())
        for key in ("questions", "answers", "versions"):
            metadata[key] = json.loads(metadata.get(key, "{}"))
    except (SafetensorError, OSError, json.JSONDecodeError) as error:
        raise UserError(f"{path} is not a readable file of representations ({error}); delete it and extract again") \
            from None
    return metadata


class KnowledgeStore:
    """What an LLM knows about the classes of a data set.

        store = KnowledgeStore("busi", llm="smollm2-135m")
        h, lengths = store.lookup(classnames)   # (C, K, D) fp32 zero padded, (C,) int64

    llm: a short name, hub id, model folder or GGUF file whose rows were extracted; or where rows lie: a
    .safetensors file, or a folder of the official code's .pth files. No work is done before something is asked.
    The cache is read first, then what the repository ships; the first file that is there is the only one read,
    so that classes of one run never mix two extractions.
    """

    def __init__(self, dataset, llm, pool="layers"):
        self.dataset, self.llm, self.pool = dataset, str(llm), pool

    def lookup(self, classnames):
        """(h (C, K, D) float32, zero beyond each class's rows; lengths (C,) int64), classes in the order asked.

        Raises UnknownName with the command to run where a class is missing, UserError where rows do not fit.
        """
        path, found = self._found(classnames)
        rows = self._read(path, [found[name] for name in classnames])
        self._check(rows, classnames, path)
        lengths = torch.tensor([len(r) for r in rows])
        return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True), lengths

    def answers(self, classnames):
        """What the LLM said about each class; "" where it is not known (official .pth files)."""
        path, found = self._found(classnames)
        said = {} if path.is_dir() else read_metadata(path)["answers"]
        return [said.get(found[name], "") for name in classnames]

    def facts(self):
        """Metadata of the file that is read (llm_hash, template, pool, dtype, ...), with its path."""
        path = self.path()
        if path is None:
            raise self._missing([], None)
        metadata = {} if path.is_dir() else read_metadata(path)
        return {**metadata, "path": str(path)}

    def path(self):
        """The file or folder that is read; None where there is none."""
        given = Path(self.llm).expanduser()
        if given.suffix == ".safetensors":
            return given if given.is_file() else None
        if is_official(given):
            return official_folder(given, self.dataset)
        places = (cached_path(self.dataset, self.llm, self.pool), shipped_path(self.dataset, self.llm, self.pool))
        return next((p for p in places if p.is_file()), None)

    def _found(self, classnames):
        """(path, {asked: stored name}); UnknownName if a class is missing."""
        path = self.path()
        if path is None:
            raise self._missing(classnames, None)
        stored = list(read_folder(path)) if path.is_dir() else read_metadata(path)["classes"]
        found = match(classnames, stored, f"{self.dataset} ({path})")
        missing = [name for name in classnames if name not in found]
        if missing:
            raise self._missing(missing, path)
        return path, found

    def _missing(self, names, path):
        listing = ", ".join(map(repr, names[:5])) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
        if path is not None and (path.is_dir() or str(path) == str(Path(self.llm).expanduser())):
            return UnknownName(f"{self.dataset}: {path} has no representation for {listing}; add it to that place, or "
                               f"set LLM= to a language model")
        if self.llm.endswith(".safetensors"):
            return UnknownName(f"{self.dataset}: there is no file of representations {self.llm}")
        what = f" for {listing}" if names else ""
        return UnknownName(f"{self.dataset}: no representation by {self.llm}{what}; make it with: "
                           f"{extraction_command(self.dataset, self.llm, self.pool)}")

    def _read(self, path, names):
        if path.is_dir():
            files = read_folder(path)
            return [read_pth(files[name]) for name in names]
        with safe_open(path, "pt") as f:
            return [f.get_tensor(name).float() for name in names]

    def _check(self, rows, classnames, path):
        """Every class: (K_c, D), the same D, finite."""
        for name, r in zip(classnames, rows):
            if r.ndim != 2 or 0 in r.shape or r.shape[1] != rows[0].shape[1]:
                raise UserError(f"{path}: class {name!r} has shape {tuple(r.shape)}, class {classnames[0]!r} "
                                f"{tuple(rows[0].shape)}; expected (rows, D) with one D: extract them again")
            if not torch.isfinite(r).all():
                raise UserError(f"{path}: class {name!r} has a row that is not finite; extract it again")


def available(dataset, llm, classnames, pool="layers", questions=None):
    """Whether `lookup` would find every class - and, given `questions` {class: text}, asked in these words."""
    store = KnowledgeStore(dataset, llm, pool)
    try:
        path, found = store._found(classnames)
    except UnknownName:
        return False
    if not questions or path.is_dir():
        return True
    asked = read_metadata(path)["questions"]
    return all(asked.get(found[name], questions[name]) == questions[name] for name in classnames if name in questions)
