"""One task in somebody else's checkout: this process is its own, and the checkout's packages are first on the path.

Here everything is called as its authors call it: `trainers`, `datasets`, `clip` are theirs, a trainer or a reader has
its bare name, and the working folder is the checkout's. Of ours there are `dassl`, and the readers of `cilmp.datasets`.
"""

import contextlib
import importlib
import json
import os
import signal
import sys
import threading
import traceback
from pathlib import Path

import cilmp
from dassl.config import get_cfg_default, keys_of, set_key
from dassl.data.datasets import DATASET_REGISTRY, DatasetBase
from dassl.engine import TRAINER_REGISTRY
from dassl.utils.errors import UserError, unwritable
from dassl.utils.io import sha256_file, write_json

from .checkout import of_data
from .plugins import nothing_registered, words_of


def main(argv=()):
    """Do the task that stands in the first line of stdin, write its answer where the task says."""
    task = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    answer, code = _answered(task)
    write_json(answer, task["answer"])
    return code


def _end_with_parent():
    """stdin ends when the parent does, however it ended."""
    while os.read(sys.stdin.fileno(), 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def _answered(task):
    """(answer, exit code) of a task; what goes wrong is an answer, too."""
    root = Path(task["root"])
    try:
        return {"describe": describe, "read": read, "run": run}[task["do"]](root, task) or {}, 0
    except UserError as error:
        return {"error": str(error)}, 2
    except SystemExit as error:
        return {"error": f"it calls exit({error.code}) - {_where(error, root)}"}, 2
    except KeyboardInterrupt:
        return {"error": f"the process of checkout {root} was stopped"}, 130
    except Exception as error:
        return {"error": _reason(error, root, task)}, 1


def _reason(error, root, task):
    """In one line; the traceback of a run is kept beside its log."""
    if isinstance(error, OSError) and (told := unwritable(error)) is not None:
        return str(told)
    if task["do"] == "run":
        from .launch import unexpected

        return unexpected(error, Path(task["how"]["folder"]))
    if isinstance(error, ModuleNotFoundError):
        return f"checkout {root} needs a module that is not installed: {error.name} - {_where(error, root)}"
    return f"{words_of(error)} - {_where(error, root)}"


def _where(error, root):
    """The last place of an error that lies in the checkout."""
    if isinstance(error, SyntaxError):
        return f"{error.filename}, line {error.lineno}"
    steps = traceback.extract_tb(error.__traceback__)
    inside = [s for s in steps if Path(s.filename).is_relative_to(root)]
    return f"{inside[-1].filename}, line {inside[-1].lineno}" if inside else f"checkout {root}"


class Loaded:
    """The checkout's modules, imported. Attributes: trainers, readers ({name: class}); extend_cfg."""

    def __init__(self, root, entries):
        from cilmp import datasets  # noqa: F401 - ours, before `datasets` is theirs

        cilmp.first_on_path(root)
        os.chdir(root)
        sys.argv = [str(root / "train.py")]
        self.root = root
        with _apart(TRAINER_REGISTRY) as self.trainers, _apart(DATASET_REGISTRY) as self.readers:
            modules = [importlib.import_module(name) for name in self._names(entries)]
        self.extend_cfg = next((m.extend_cfg for m in reversed(modules) if hasattr(m, "extend_cfg")), lambda cfg: None)
        self._check(entries)

    def _names(self, entries):
        """Module names of its train.py and the entries."""
        files = ["train.py"] if (self.root / "train.py").is_file() else []
        return [file.removesuffix(".py").replace("/", ".") for file in [*files, *filter(None, entries)]]

    def _check(self, entries):
        """Each named file registers something; the folder or train.py registers anything."""
        classes = [*self.trainers.values(), *self.readers.values()]
        for entry in entries:
            name = entry.removesuffix(".py").replace("/", ".")
            if not [c for c in classes if entry in ("", "train.py") or c.__module__ == name]:
                raise nothing_registered(self.root / entry)

    def files(self):
        """{path below the root: SHA-256} of all of its files that are loaded."""
        paths = {Path(m.__file__) for m in list(sys.modules.values()) if getattr(m, "__file__", None)}
        inside = sorted(p for p in paths if p.is_relative_to(self.root))
        return {p.relative_to(self.root).as_posix(): sha256_file(p) for p in inside}

    def config(self, values=()):
        """The defaults with its own keys; `values` {dotted key: value} set."""
        cfg = get_cfg_default()
        self.extend_cfg(cfg)
        cfg.RUN.CHECKOUT = self.root.name
        for key, value in dict(values).items():
            set_key(cfg, key, value, "the run's configuration")
        if "INPUT.SET" in values:  # last: setting the others adds to it
            set_key(cfg, "INPUT.SET", values["INPUT.SET"], "the run's configuration")
        return cfg


@contextlib.contextmanager
def _apart(registry):
    """{name: class} that collects what is registered within; the registry is as before afterwards."""
    found, registry._objects, before = {}, {}, registry._objects
    try:
        yield found
    finally:
        found |= registry._objects
        registry._objects = before


def describe(root, task):
    """What it registers, which keys it adds, and the hashes of its files."""
    loaded = Loaded(root, task["entries"])
    first = lambda c: (c.__doc__ or "").strip().split("\n")[0]  # noqa: E731
    default, cfg = dict(_leaves(get_cfg_default())), dict(_leaves(loaded.config()))
    return {
        "trainers": {name: first(c) for name, c in loaded.trainers.items()},
        "readers": {name: first(c) for name, c in loaded.readers.items()},
        "config": {k: v for k, v in cfg.items() if k not in default or default[k] != v},
        "files": loaded.files(),
    }


def _leaves(cfg):
    for key in keys_of(cfg):
        node = cfg
        for part in key.split("."):
            node = node[part]
        yield key, node


def read(root, task):
    """{part: [[path, label, domain, class name]] or None} that a reader gives."""
    from dassl.utils import set_random_seed

    loaded = Loaded(root, task["entries"])
    cfg = loaded.config(task["config"])
    if cfg.SEED >= 0:
        set_random_seed(cfg.SEED)
    built = loaded.readers[task["reader"]](cfg)
    return {part: items and [[d.impath, d.label, d.domain, d.classname] for d in items]
            for part, items in (("train_x", built.train_x), ("val", built.val), ("test", built.test))}  # fmt: skip


def run(root, task):
    """Train or test one of its trainers; results go where the task says, under the names that the parent knows."""
    from .run import run_here

    loaded = Loaded(root, task["entries"])
    cfg = loaded.config(task["config"])
    names = {"method": cfg.TRAINER.NAME, "dataset": cfg.DATASET.NAME}
    if task["reader"] is not None:
        cfg.DATASET.NAME = task["reader"]
        DATASET_REGISTRY.register(loaded.readers[task["reader"]], force=True)
    _register_others(cfg.DATASET.NAME, task)
    cfg.TRAINER.NAME = task["trainer"]
    TRAINER_REGISTRY.register(loaded.trainers[task["trainer"]], force=True)
    if task["weights"]:
        hand_over(task["weights"], cfg.MODEL.BACKBONE.NAME, root)
    cfg.freeze()
    run_here(cfg, {**task["facts"], **names}, **task["how"])


def _register_others(name, task):
    """The reader of another checkout, by the lists that it gave, or those of the user's own files."""
    from .plugins import load_plugins

    if task["lists"]:
        given = {subset: of_data(lists) for subset, lists in task["lists"].items()}
        read = lambda self, cfg: DatasetBase.__init__(self, **given[cfg.DATASET.SUBSAMPLE_CLASSES])  # noqa: E731
        DATASET_REGISTRY.register(type(name, (DatasetBase,), {"__init__": read}), force=True)
    load_plugins(task["plugins"])


def hand_over(file, name, root):
    """Let the checkout's `clip` find the weights of MODEL.BACKBONE.NAME in this file, where it would download them.

    Raises:
        UserError: nothing in it downloads as OpenAI's clip does.
    """
    theirs = [m for m in list(sys.modules.values())
              if hasattr(m, "_download") and hasattr(m, "_MODELS")
              and Path(getattr(m, "__file__", None) or "/").is_relative_to(root)]  # fmt: skip
    if not theirs:
        raise UserError(f"{file}: checkout {root} holds no `clip` that downloads weights as OpenAI's does")
    for module in theirs:
        module._MODELS.setdefault(name, file)
        module._download = lambda *args, **kwargs: file
