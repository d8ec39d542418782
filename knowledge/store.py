"""Reading stored representations: one file a data set, LLM and way of asking; classes looked up by name.

K is the number of LLM rows (a decoder layer, or a token, each), D the LLM's width, C the classes.
Nothing here imports an LLM library.

A store is one safetensors file. Tensor "<class name>" is (K_c, D), fp32, bf16 or fp16; the metadata are strings:
    schema, dataset, llm, llm_file (of a GGUF), llm_hash (SHA-256 or hub revision), template, chat_template, pool,
    rows (in words), dtype, compute, max_new_tokens; as JSON: questions {class: text}, answers {class: text}, versions.
Which file is read is told from these, see `shelf`.
"""

import hashlib
import json
import shlex
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from dassl.utils.errors import UnknownName, UserError
from dassl.utils.io import sha256_of

from . import shelf
from .names import match
from .official import is_official, official_folder, read_folder, read_pth

POOLS = ("layers", "tokens")
CONTROLS_ASKED = ("wrong_modality", "name_only")  # kinds of KNOWLEDGE whose questions are not the real ones
SETTINGS = ("llm_hash", "template", "pool", "dtype", "compute", "max_new_tokens")  # rows of one file agree in these


def entries(dataset):
    """What the stored files of a data set hold, the cache's first."""
    return [_entry(path, read_metadata(path)) for path in shelf.paths(dataset, ".safetensors")]


def _entry(path, metadata):
    words = {name: metadata["questions"].get(name, "") for name in metadata["classes"]}
    return shelf.Entry(path, metadata.get("llm", ""), {key: metadata.get(key, "") for key in SETTINGS}, words)


def is_place(llm):
    """Whether an "LLM" is a place where rows lie: a .safetensors file, a folder of the official .pth files."""
    return Path(llm).suffix == ".safetensors" or is_official(Path(llm).expanduser())


def extraction_command(dataset, llm, pool="layers", classnames=(), dtype="", kind="real"):
    """What to type to make representations."""
    words = ["cilmp", "extract", "--dataset", dataset, "--llm", str(llm)]
    words += ["--pool", pool] if pool != "layers" else []
    words += ["--dtype", dtype] if dtype else []
    words += ["--knowledge", kind] if kind in CONTROLS_ASKED else []
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


class KnowledgeStore(shelf.Kept):
    """What an LLM knows about the classes of a data set.

        store = KnowledgeStore("busi", llm="smollm2-135m")
        h, lengths = store.lookup(classnames)   # (C, K, D) fp32 zero padded, (C,) int64

    Args:
        dataset: its name.
        llm: a short name, hub id, model folder or GGUF file whose rows were extracted; or where rows lie: a
            .safetensors file, or a folder of the official code's .pth files, which are read as they are.
        pool: "layers" or "tokens".
        questions: {class: text}: only rows that were asked for in these words; None: in any.
        dtype: only rows stored so; None: any.
        kind: of KNOWLEDGE that the questions are of (see `controls`), for the command that makes them.

    No work is done before something is asked. Rows are those of the very LLM (by its hash: two folders of one name
    are two LLMs), all from one file; where files fit that differ in words or settings it must be said which one is
    meant. The cache goes before what the repository ships.
    """

    def __init__(self, dataset, llm, pool="layers", questions=None, dtype=None, kind="real"):
        if pool not in POOLS:
            raise UserError(f"pool {pool!r}: choose layers (a row for each decoder layer) or tokens")
        self.dataset, self.llm, self.pool, self.questions, self.kind = dataset, str(llm), pool, questions, kind
        self.wanted = {"pool": pool, **({"dtype": dtype} if dtype else {})}

    def lookup(self, classnames):
        """(h (C, K, D) float32, zero beyond each class's rows; lengths (C,) int64), classes in the order asked.

        Raises UnknownName with the command to run where a class is missing, UserError where rows do not fit or
        could be either of two.
        """
        rows = self._rows(classnames)
        lengths = torch.tensor([len(r) for r in rows])
        return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True), lengths

    def sha256(self, classnames):
        """SHA-256 of the rows that these classes get (names, shapes, fp32 values); their order plays no part."""
        digests = {}
        for name, r in zip(classnames, self._rows(classnames)):
            digests[name] = [list(r.shape), hashlib.sha256(r.contiguous().numpy().tobytes()).hexdigest()]
        return sha256_of(digests)

    def answers(self, classnames):
        """What the LLM said about each class; "" where it is not known (official .pth files)."""
        path, found = self._found(classnames)
        said = {} if path.is_dir() else read_metadata(path)["answers"]
        return [said.get(found[name], "") for name in classnames]

    def facts(self, classnames=()):
        """Metadata of the file that is read (llm_hash, template, pool, dtype, ...), with its path."""
        path, _ = self._found(classnames)
        metadata = {} if path.is_dir() else read_metadata(path)
        return {**metadata, "path": str(path)}

    def _found(self, classnames):
        """(path, {asked: stored name}); UnknownName if a class is missing."""
        if is_place(self.llm):
            return self._given(classnames)
        there = entries(self.dataset)
        fit = shelf.pick(shelf.by_llm(there, self.llm), classnames, self.questions, self.wanted,
                         f"{self.dataset} by {self.llm}")
        if fit is None:
            raise self._nowhere(there, classnames)
        return fit[0].path, fit[1]

    def _given(self, classnames):
        """As `_found`, of the place that was named."""
        path = Path(self.llm).expanduser()
        if path.is_dir():
            path = official_folder(path, self.dataset)
        elif not path.is_file():
            raise UnknownName(f"{self.dataset}: there is no file of representations {self.llm}")
        stored = list(read_folder(path)) if path.is_dir() else read_metadata(path)["classes"]
        found = match(classnames, stored, f"{self.dataset} ({path})")
        if missing := [name for name in classnames if name not in found]:
            raise UnknownName(f"{self.dataset}: {path} has no representation for {listing(missing)}; add it to that "
                              f"place, or set LLM= to a language model")
        return path, found

    def _nowhere(self, there, classnames):
        """The UnknownName for classes that no file has as wanted."""
        missing, instead = shelf.nearest(there, classnames, self.questions, self.wanted, self.llm)
        what = f" for {listing(missing)}" if missing else ""
        own_words = self.kind in CONTROLS_ASKED  # what is there was asked otherwise, as it should be
        instead = f" ({instead}; LLM= that path takes it as it is)" if instead and not own_words else ""
        dtype = self.wanted.get("dtype", "")
        command = extraction_command(self.dataset, self.llm, self.pool, dtype=dtype, kind=self.kind)
        return UnknownName(f"{self.dataset}: no representation by {self.llm}{what}{instead}; make it with: {command}")

    def _rows(self, classnames):
        """[(K_c, D) fp32] of the classes, checked: one D, all finite."""
        path, found = self._found(classnames)
        rows = self._read(path, [found[name] for name in classnames])
        for name, r in zip(classnames, rows):
            if r.ndim != 2 or 0 in r.shape or r.shape[1] != rows[0].shape[1]:
                raise UserError(f"{path}: class {name!r} has shape {tuple(r.shape)}, class {classnames[0]!r} "
                                f"{tuple(rows[0].shape)}; expected (rows, D) with one D: extract them again")
            if not torch.isfinite(r).all():
                raise UserError(f"{path}: class {name!r} has a row that is not finite; extract it again")
        return rows

    def _read(self, path, names):
        if path.is_dir():
            files = read_folder(path)
            return [read_pth(files[name]) for name in names]
        with safe_open(path, "pt") as f:
            return [f.get_tensor(name).float() for name in names]


def listing(names):
    return ", ".join(map(repr, names[:5])) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def available(dataset, llm, classnames, pool="layers", questions=None):
    """Whether `lookup` would find every class - and, given `questions` {class: text}, asked in these words."""
    return not KnowledgeStore(dataset, llm, pool, questions).missing(classnames)
