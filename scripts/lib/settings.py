"""Configurations: of one run from files and flags, of a protocol's jobs from the environment."""

import importlib
import importlib.util
import os
import shlex
import sys
from pathlib import Path

import yaml

from dassl.utils.errors import ConfigError, MissingFile
from dassl.utils.paths import REPO

CONFIGS = REPO / "configs"


def load_plugins(plugins):
    """Import the user's files or modules; they register their trainers and readers."""
    loaded = []
    for plugin in plugins:
        path = Path(plugin)
        if path.suffix == ".py":
            if not path.is_file():
                raise MissingFile(f"no plugin file {path.absolute()}")
            module = _load_file(path)
        else:
            try:
                module = importlib.import_module(str(plugin))
            except ModuleNotFoundError as error:
                raise MissingFile(f"plugin {plugin}: {error}; give a file name ending in .py, or a module") from None
        loaded.append(module)
    return loaded


def _load_file(path):
    """The module of a plugin file; loaded once a process, as it registers what it holds."""
    spec = importlib.util.spec_from_file_location(f"plugin_{path.stem}", path)
    known = sys.modules.get(spec.name)
    if known is not None and Path(known.__file__).samefile(path):
        return known
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[spec.name]
        raise
    return module


def base_config(plugins=()):
    """Defaults with the nodes of all methods and of the plugins (an `extend_cfg(cfg)` of theirs is called)."""
    import datasets  # noqa: F401 - registers the readers
    import trainers
    from dassl.config import get_cfg_default

    modules = load_plugins(plugins)
    cfg = get_cfg_default()
    trainers.extend_cfg(cfg)
    for module in modules:
        if hasattr(module, "extend_cfg"):
            module.extend_cfg(cfg)
    return cfg


def words(text):
    """The words of an environment variable; quotes keep blanks together."""
    try:
        return shlex.split(text)
    except ValueError as error:
        raise ConfigError(f"{text}: {error}") from None


def paths(text):
    """The files or modules of PLUGIN; one file name with blanks needs no quotes."""
    return [text] if Path(text).is_file() else words(text)


def method_files(method, protocol, backbone, hparams, wanted="", shots=-1):
    """The yaml files of a method, merged in turn: CFG if given, demo for the demo backbone, else the protocol's or
    the paper's and what they change for this number of shots; what has none of its own (a plugin) runs with the set
    common to all.

    Returns:
        (paths, name, hparams recorded with the results)
    """
    shared, folder = CONFIGS / "trainers", CONFIGS / "trainers" / method
    if wanted:
        path = Path(wanted) if wanted.endswith(".yaml") else folder / f"{wanted}.yaml"
        if not path.is_file():
            there = ", ".join(sorted(p.stem for p in folder.glob("*.yaml")))
            raise MissingFile(f"CFG={wanted}: no {path}; there are {there}")
        return [path], path.stem, "custom"
    if hparams == "common":
        return [shared / "common.yaml"], "common", "common"
    if backbone == "demo":
        return [p for p in (shared / "demo.yaml", folder / "demo.yaml") if p.is_file()], "demo", "custom"
    for name in (protocol, "vit_b16"):
        if (folder / f"{name}.yaml").is_file():
            fewer = folder / f"{protocol}_shots{shots}.yaml"
            return [folder / f"{name}.yaml", *([fewer] if fewer.is_file() else [])], name, "official"
    return [shared / "common.yaml"], "common", "common"


def tuned(method, protocol, dataset):
    """{dotted key: value} its authors tuned for this data set: the method's tuned.yaml, protocol -> set -> keys."""
    path = CONFIGS / "trainers" / method / "tuned.yaml"
    content = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return content.get(protocol, {}).get(dataset, {})


def every_method():
    """All registered methods for a comparison: untrained ones first, ours last."""
    import trainers

    found = trainers.methods()
    return sorted(found, key=lambda n: (n == "CILMP", found[n].trains, n.lower()))


class Request:
    """What the environment asks for: DATA OUTPUT SHOTS CFG BACKBONE LLM EPOCHS METHODS HPARAMS FORCE THREADS ..."""

    def __init__(self, protocol, method, dataset, seeds, environ=None):
        from datasets import canonical

        env = os.environ if environ is None else environ
        get = lambda key, default="": env.get(key, "").strip() or default  # noqa: E731
        self.protocol, self.seeds = protocol, self._seeds(seeds)
        self.dataset = canonical(dataset or "phantom")
        demo = self.dataset == "phantom"
        self.root = os.path.abspath(get("DATA")) if get("DATA") else ""
        self.backbone = get("BACKBONE", "demo" if demo else "ViT-B/16")
        self.weights = get("WEIGHTS")
        self.llm = get("LLM", "smollm2-135m" if demo else "meta-llama/Meta-Llama-3-8B")
        self.plugins, self.opts = paths(get("PLUGIN")), words(get("OPTS"))
        self.methods = list(dict.fromkeys(get("METHODS").split() or self._compared_with(method)))
        self.shots = self._shots(get("SHOTS"), demo)
        self.hparams = get("HPARAMS", "official")
        if self.hparams not in ("official", "common"):
            raise ConfigError(f"HPARAMS={self.hparams}: choose official or common")
        self.cfg, self.epochs = get("CFG"), self._number(get("EPOCHS"), "EPOCHS")
        self.threads = self._number(get("THREADS"), "THREADS")
        self.force = get("FORCE") not in ("", "0")
        self.targets = [canonical(t) for t in get("TARGETS").split()]

    def _compared_with(self, method):
        """Whom a method meets in its table; "all": every method, the plugins' too."""
        if method == "all":
            base_config(self.plugins)
            return every_method()
        return ["ZeroshotCLIP", "CoOp", "CILMP"] if method == "CILMP" else ["ZeroshotCLIP", method]

    @staticmethod
    def _seeds(words):
        """Whole numbers from 0 on, without repetition; none = 1 2 3."""
        if bad := [w for w in words if not str(w).isdigit()]:
            raise ConfigError(f"seed {bad[0]!r}: the first word is the data set, further ones are seeds (0, 1, 2 ...)")
        return list(dict.fromkeys(map(int, words))) or [1, 2, 3]

    @staticmethod
    def _number(text, name):
        if text and not text.isdigit():
            raise ConfigError(f"{name}={text}: give a whole number")
        return int(text) if text else 0

    def _shots(self, text, demo):
        if self.protocol == "full":
            return [-1]
        default = {"base2new": "16", "cross_dataset": "16"}.get(self.protocol, "1 4 16" if demo else "1 2 4 8 16")
        numbers = (text or default).split()
        if not all(n.isdigit() and int(n) > 0 for n in numbers):
            raise ConfigError(f"SHOTS={text}: give whole numbers above 0, e.g. SHOTS='1 4 16'")
        return [int(n) for n in numbers]

    def config(self, base, method, shots, seed, subset):
        """(frozen config of one run without its folder, name of the method file)."""
        from dassl.config import merge_from_file, merge_from_list
        from dassl.engine import TRAINER_REGISTRY

        trainer = TRAINER_REGISTRY.get(method)  # an unknown one is named here, with the nearest
        cfg = base.clone()
        files, name, kind = method_files(method, self.protocol, self.backbone, self.hparams, self.cfg, shots)
        for path in files:
            merge_from_file(cfg, path)
        dataset_file = CONFIGS / "datasets" / f"{self.dataset}.yaml"
        if dataset_file.is_file():
            merge_from_file(cfg, dataset_file)
        if kind == "official" and (values := tuned(method, self.protocol, self.dataset)):
            cfg.RUN.TUNED = True
            merge_from_list(cfg, [x for pair in values.items() for x in pair], f"{method}/tuned.yaml")
        cfg.TRAINER.NAME, cfg.SEED, cfg.THREADS = method, seed, self.threads or cfg.THREADS
        cfg.DATASET.NAME, cfg.DATASET.ROOT = self.dataset, self.root
        cfg.DATASET.NUM_SHOTS, cfg.DATASET.SUBSAMPLE_CLASSES = shots, subset
        cfg.MODEL.BACKBONE.NAME, cfg.MODEL.BACKBONE.WEIGHTS = self.backbone, self.weights
        cfg.MODEL.LLM = self.llm if getattr(trainer, "needs_llm", False) else ""
        cfg.RUN.PROTOCOL, cfg.RUN.HPARAMS = self.protocol, kind
        cfg.DATALOADER.NUM_WORKERS = min(cfg.DATALOADER.NUM_WORKERS, os.cpu_count() or 1)
        if self.epochs:
            cfg.OPTIM.MAX_EPOCH, cfg.RUN.HPARAMS = self.epochs, "custom"
            for other in ("ITERATIONS_PER_SHOT", "MIN_STEPS"):  # ways to say the length in steps
                if other in cfg.TRAINER.get(method.upper(), {}):
                    cfg.TRAINER[method.upper()][other] = 0
        if self.opts:
            merge_from_list(cfg, self.opts, "OPTS")
            cfg.RUN.HPARAMS = "custom"
        cfg.freeze()
        return cfg, name
