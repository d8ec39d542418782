"""A whole checkout of somebody else's (CoOp's, MaPLe's ...) as a plugin, and what stands for it in this process.

Two checkouts both own `trainers`, `datasets` and `clip`, and some an `open_clip` of their own. So none is imported
here: each task is done in a process of its own, the checkout's folder first on its path (in_checkout.py). Here its
trainers are names to be run, and its readers give the lists that were read there.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import cilmp
from dassl.data.datasets import DATASET_REGISTRY, DatasetBase, Datum
from dassl.engine import TRAINER_REGISTRY
from dassl.engine.run_folder import flatten
from dassl.utils.errors import ConfigError, MissingFile, Terminated, UserError
from dassl.utils.io import read_json, sha256_of

ROOMS = ("trainers", "datasets")  # the packages that make a folder a checkout


def root_of(path):
    """The checkout that a plugin is (its folder, or its train.py) or lies in (a file of trainers/ or datasets/); None
    for a file of one's own. This repository is none: its rooms are imported."""
    path = Path(path).expanduser().resolve()
    if not path.exists():  # a module's name
        return None
    inside = [p.parent for p in path.parents if p.name in ROOMS]
    found = [path] if path.is_dir() else [*inside, *([path.parent] if path.name == "train.py" else [])]
    return next((root for root in found if root != cilmp.CHECKOUT and _holds_rooms(root)), None)


def is_folder_of_none(path):
    """Whether a plugin is a folder that is neither a checkout nor a package."""
    return path.is_dir() and root_of(path) is None and not (path / "__init__.py").is_file()


def _holds_rooms(root):
    return any((root / room / "__init__.py").is_file() for room in ROOMS)


class Trainer:
    """A checkout's trainer: a name in our tables. Class attributes: checkout, its Checkout; own, its name there."""

    checkout, own = None, ""

    def __init__(self, cfg):
        raise UserError(f"{type(self).__name__} runs in a process of its own: cilmp run, or train.py --trainer")


class Reader(DatasetBase):
    """A checkout's data set: the lists that its reader gave in a process of its own, seeded as a run is."""

    checkout, own = None, ""

    def __init__(self, cfg):
        super().__init__(**of_data(self.checkout.read(self.own, cfg)))


def of_data(lists):
    """{part: [Datum] or None} of Checkout.read()."""
    return {part: items and [Datum(*item) for item in items] for part, items in lists.items()}


class Checkout:
    """One checkout: what it registers, under which names here, and how to have something done in it."""

    _all = {}  # root: Checkout

    @classmethod
    def of(cls, root, path):
        """The Checkout in a folder with what its train.py and the file at `path` register; asked once a process."""
        same_name = [other for other in cls._all if other.name == root.name and other != root]
        if same_name:
            raise UserError(f"two checkouts are called {root.name}, {same_name[0]} and {root}: rename a folder")
        known = cls._all.get(root) or cls(root)
        known._take(path)
        cls._all[root] = known
        return known

    def __init__(self, root):
        self.root, self.name, self.entries, self.names, self._lists = root, root.name, [], {}, {}

    def _take(self, path):
        entry = "" if path.is_dir() else path.relative_to(self.root).as_posix()
        if entry in self.entries:
            return
        if not entry and not (self.root / "train.py").is_file():
            raise MissingFile(f"{self.root} has no train.py that says what it holds; give one of its files")
        self.facts = self.ask("describe", entries=[*self.entries, entry])
        self.entries.append(entry)
        self._register("trainers", TRAINER_REGISTRY, Trainer)
        self._register("readers", DATASET_REGISTRY, Reader)

    def _register(self, kind, registry, base):
        taken = []
        for own, words in self.facts[kind].items():
            if (kind, own) in self.names:
                continue
            name = f"{self.name}.{own}" if own in registry else own
            self.names[kind, own] = name
            taken += [own] if name != own else []
            registry.register(type(name, (base,), {"checkout": self, "own": own, "__doc__": words}))
        if taken:
            theirs = ", ".join(self.names[kind, own] for own in taken)
            print(f"{self.root}: {', '.join(taken)} {'is' if len(taken) == 1 else 'are'} taken, its own: {theirs}")

    @property
    def sha256(self):
        """Hash of the Python files that it loads."""
        return sha256_of(self.facts["files"])

    def config(self):
        """The defaults with the keys that its train.py adds, and none of our methods'."""
        from dassl.config import CfgNode, get_cfg_default

        cfg = get_cfg_default()
        for key, value in self.facts["config"].items():
            node, *leaf = cfg, *key.split(".")
            for part in leaf[:-1]:
                node = node.setdefault(part, CfgNode())
            node[leaf[-1]] = value
        return cfg

    def read(self, own, cfg):
        """{part: [[path, label, domain, class name]] or None} of its reader; asked once for equal settings."""
        here, there = flatten(cfg), flatten(self.config())
        config = {k: here[k] for k in there if k in here and k.split(".")[0] in ("DATASET", "SEED")}
        key = json.dumps([own, config])
        if key not in self._lists:
            self._lists[key] = self.ask("read", reader=own, config=config)
        return self._lists[key]

    def run(self, spec, facts, **how):
        """Have a RunSpec run in it. See run.run_here() for `facts` and `how`."""
        reader = DATASET_REGISTRY.get(spec.dataset) if spec.dataset in DATASET_REGISTRY else None
        theirs = getattr(reader, "checkout", None)
        lists = None if theirs in (None, self) else self._lists_of(reader, spec)
        own_files = reader is not None and theirs is None and reader.__module__.split(".")[0] != "cilmp"
        plain = [_absolute(p) for p in spec.plugins if root_of(p) is None] if own_files else []
        self.ask(
            "run", trainer=TRAINER_REGISTRY.get(spec.method).own, config=flatten(spec.config), facts=facts, how=how,
            weights=weights_file(spec.config.MODEL.BACKBONE), reader=reader.own if theirs is self else None,
            lists=lists, plugins=plain,
        )  # fmt: skip

    @staticmethod
    def _lists_of(reader, spec):
        """{subset: lists} that a run here needs of another checkout's reader."""
        whole = spec.but("", {"DATASET.SUBSAMPLE_CLASSES": "all"}).config
        return {c.DATASET.SUBSAMPLE_CLASSES: reader.checkout.read(reader.own, c) for c in (spec.config, whole)}

    def ask(self, do, **task):
        """Have one task done in a process of its own; returns its answer.

        Raises:
            UserError: the task's own error, or that the process ended without an answer.
        """
        task = {"entries": self.entries, **task, "do": do, "root": str(self.root)}
        with tempfile.TemporaryDirectory() as place:
            answer, said = Path(place, "answer.json"), Path(place, "said.txt")
            with open(said, "w") as quiet:
                code = _in_process({**task, "answer": str(answer)}, None if do == "run" else quiet)
            found = read_json(answer) if answer.is_file() else None
            last = [*said.read_text(errors="replace").split("\n")][-2:-1]
        if found is None:
            words = f" ({last[0]})" if last and last[0] else ""
            raise UserError(f"the process of checkout {self.root} ended with code {code} and without an answer{words}; "
                            f"did it call exit(), or was it killed (out of memory)?")  # fmt: skip
        if "error" in found:
            raise UserError(found["error"])
        return found


def _absolute(plugin):
    """The same from another working folder; the name of a module stays."""
    return os.path.abspath(os.path.expanduser(plugin)) if plugin.endswith(".py") else plugin


def weights_file(backbone):
    """The file that WEIGHTS or BACKBONE (FILE, NAME::FILE) gives to a checkout's trainer; "" where it loads its own.

    Raises:
        MissingFile: WEIGHTS is no file. ConfigError: our demo backbone, which no checkout knows.
    """
    if backbone.NAME == "demo":
        raise ConfigError("the trainer of a checkout brings its own backbones, and demo is none: BACKBONE=ViT-B/16")
    path = Path(backbone.WEIGHTS or backbone.NAME.rpartition("::")[2]).expanduser()
    if path.is_file():
        return str(path.absolute())
    if backbone.WEIGHTS:
        raise MissingFile(f"WEIGHTS={backbone.WEIGHTS}: no such file; the trainer of a checkout takes nothing else")
    return ""


def _in_process(task, quiet):
    """Run the task; returns the exit code. Ctrl-C and SIGTERM are passed on once each, and waited for: a training ends
    its step and saves first. The child lives no longer than this process: its end is the end of the child's stdin."""
    command = [sys.executable, cilmp.__path__[0], "_in_checkout"]
    environ = dict(os.environ)
    if environ.get("CILMP_CACHE"):  # it works in the checkout's folder
        environ["CILMP_CACHE"] = os.path.abspath(os.path.expanduser(environ["CILMP_CACHE"]))
    sys.stdout.flush()
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=quiet, stderr=quiet, text=True, env=environ,
                             start_new_session=True)  # fmt: skip
    with contextlib.suppress(BrokenPipeError):  # it ended before it read: then there is no answer
        child.stdin.write(json.dumps(task) + "\n")
        child.stdin.flush()
    stopped = None
    while True:
        try:
            child.wait()
            break
        except KeyboardInterrupt as stop:
            stopped = stop
            child.send_signal(signal.SIGTERM if isinstance(stop, Terminated) else signal.SIGINT)
    child.stdin.close()
    if stopped is not None:
        raise stopped
    return child.returncode
