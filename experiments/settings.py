"""What is asked for: the variables, the method's files, and the complete configuration of a run."""

import os
import shlex
from pathlib import Path

import yaml

from dassl.utils.errors import ConfigError, MissingFile

from .plugins import load_plugins

CONFIGS = Path(__file__).resolve().parents[1] / "configs"


def base_config(plugins=()):
    """Defaults with the nodes of all methods and of the plugins (an `extend_cfg(cfg)` of theirs is called)."""
    from cilmp import (
        datasets,  # noqa: F401 - registers the readers
        trainers,
    )
    from dassl.config import get_cfg_default

    modules = load_plugins(plugins)
    cfg = get_cfg_default()
    trainers.extend_cfg(cfg)
    for module in modules:
        if hasattr(module, "extend_cfg"):
            module.extend_cfg(cfg)
    return cfg


def words(text):
    """The words of a variable; quotes keep blanks together."""
    try:
        return shlex.split(text)
    except ValueError as error:
        raise ConfigError(f"{text}: {error}") from None


def paths(text):
    """The files or modules of PLUGIN; one file name with blanks needs no quotes."""
    return [text] if text and Path(text).expanduser().exists() else words(text)


def own_base(base, method):
    """The configuration that a method's runs begin with: `base`, or that of the checkout whose method it is."""
    from dassl.engine import TRAINER_REGISTRY

    checkout = getattr(TRAINER_REGISTRY.get(method), "checkout", None)  # an unknown name is said here, with the nearest
    return checkout.config() if checkout else base.clone()


def method_folder(method):
    """Where a method's yaml files are: configs/trainers/<Name> here, or in the checkout whose method it is."""
    from dassl.engine import TRAINER_REGISTRY

    trainer = TRAINER_REGISTRY.get(method) if method in TRAINER_REGISTRY else None
    checkout = getattr(trainer, "checkout", None)
    return checkout.root / "configs" / "trainers" / trainer.own if checkout else CONFIGS / "trainers" / method


def method_files(method, protocol, backbone, wanted="", shots=-1):
    """The yaml files of a method, merged in turn: CFG if given (but for "tuned", which is no file to begin with), demo
    for the demo backbone, else the protocol's or the paper's and what they change for this number of shots; default
    for what has none of its own (a plugin).

    Returns:
        (paths, name, hparams recorded with the results)
    """
    shared, folder = CONFIGS / "trainers", CONFIGS / "trainers" / method
    if wanted and wanted != "tuned":
        own = method_folder(method)
        path = Path(wanted) if wanted.endswith(".yaml") else own / f"{wanted}.yaml"
        if not path.is_file():
            there = ", ".join(sorted(p.stem for p in own.glob("*.yaml")))
            raise MissingFile(f"CFG={wanted}: no {path}; there are {there}")
        return [path], path.stem, "custom"
    if backbone == "demo":
        return [p for p in (shared / "demo.yaml", folder / "demo.yaml") if p.is_file()], "demo", "demo"
    for name in (protocol, "vit_b16"):
        if (folder / f"{name}.yaml").is_file():
            fewer = folder / f"{protocol}_shots{shots}.yaml"
            return [folder / f"{name}.yaml", *([fewer] if fewer.is_file() else [])], name, "official"
    return [shared / "default.yaml"], "default", "default"


def tuned(method):
    """{backbone: {protocol: {data set: {dotted key: value}}}}: the method's tuned.yaml, what its authors tuned."""
    path = CONFIGS / "trainers" / method / "tuned.yaml"
    return yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else {}


def tuned_for(method, protocol, dataset):
    """{backbone: {dotted key: value}} tuned for this data set; empty where nothing was."""
    found = {backbone: parts.get(protocol, {}).get(dataset) for backbone, parts in tuned(method).items()}
    return {backbone: values for backbone, values in found.items() if values}


def every_method():
    """All registered methods for a comparison: untrained ones first, ours last."""
    from cilmp import trainers

    found = trainers.methods()
    return sorted(found, key=lambda n: (n == "CILMP", found[n].trains, n.lower()))


# Facts with an owner of their own: OPTS may not say them a second time, or title, folder and run would disagree.
OWNED = {
    "MODEL.BACKBONE.NAME": "BACKBONE", "MODEL.BACKBONE.WEIGHTS": "WEIGHTS", "MODEL.LLM": "LLM", "DATASET.ROOT": "DATA",
    "DATASET.NUM_SHOTS": "SHOTS", "OPTIM.MAX_EPOCH": "EPOCHS", "THREADS": "THREADS", "OUTPUT_DIR": "OUTPUT",
    "DATASET.NAME": "", "TRAINER.NAME": "", "SEED": "", "DATASET.SUBSAMPLE_CLASSES": "", "RUN.PROTOCOL": "",
    "RUN.HPARAMS": "", "RUN.TUNED": "", "RESUME": "",
}  # fmt: skip
AS_VARIABLE = ("BACKBONE", "WEIGHTS", "LLM", "DATA", "EPOCHS", "THREADS")  # one value for all runs: taken as such


class Request:
    """What is asked for: DATA OUTPUT SHOTS CFG BACKBONE WEIGHTS LLM EPOCHS METHODS HPARAMS FORCE THREADS PLUGIN OPTS
    TARGETS, from `environ` (default: the environment); `select` is the part of the data that settings are judged on.
    """

    def __init__(self, protocol, method, dataset, seeds, environ=None, label=""):
        from cilmp.datasets import canonical
        from cilmp.protocols import protocol as find

        env = dict(os.environ if environ is None else environ)
        self.opts = words(env.get("OPTS", ""))
        self._take_owned(env)
        get = lambda key, default="": env.get(key, "").strip() or default  # noqa: E731
        self.protocol, self.seeds, self.label = find(protocol), self._seeds(seeds), label
        self.dataset = canonical(dataset or "phantom")
        self.demo = self.dataset == "phantom"
        self.root = os.path.abspath(os.path.expanduser(get("DATA"))) if get("DATA") else ""
        self.backbone = get("BACKBONE", "demo" if self.demo else "ViT-B/16")
        self.weights = get("WEIGHTS")
        self.llm = get("LLM", "smollm2-135m" if self.demo else "meta-llama/Meta-Llama-3-8B")
        self.plugins = tuple(paths(get("PLUGIN")))
        self.methods = list(dict.fromkeys(get("METHODS").split() or self._compared_with(method)))
        self.beside = [] if get("METHODS") else [m for m in self.methods if m != method]  # nobody named them
        self.shots = self._shots(get("SHOTS"))
        self.cfg, self.epochs = get("CFG"), self._number(get("EPOCHS"), "EPOCHS")
        self.asked_hparams = self._hparams(get("HPARAMS"))
        self.hparams = self.asked_hparams or ("official" if self.cfg else self.protocol.hparams)
        self.threads = self._number(get("THREADS"), "THREADS")
        self.force = get("FORCE") not in ("", "0")
        self.targets = tuple(canonical(t) for t in get("TARGETS").split())
        if self.protocol.needs_targets and not self.targets:
            raise ConfigError(f"{protocol} needs TARGETS='SET1 SET2': the data sets to test on")

    def _take_owned(self, env):
        """Move what OPTS says of a fact that a variable owns into that variable; refuse what the words say."""
        kept = []
        for key, value in zip(self.opts[::2], self.opts[1::2]):
            owner = OWNED.get(key)
            if owner in AS_VARIABLE:
                env[owner] = value
            elif owner is not None:
                remedy = f"set {owner}={value}" if owner else "it is what the command's own words say"
                raise ConfigError(f"OPTS: {key} has one owner; {remedy}")
            else:
                kept += [key, value]
        self.opts = kept + self.opts[len(self.opts) // 2 * 2 :]  # an odd word is refused where options are merged

    def _compared_with(self, method):
        """Whom a method meets in its table; "all": every method, the plugins' too."""
        if method == "all":
            base_config(self.plugins)
            return every_method()
        return ["ZeroshotCLIP", "CoOp", "CILMP"] if method == "CILMP" else ["ZeroshotCLIP", method]

    @staticmethod
    def _seeds(words):
        """Whole numbers from 0 on, without repetition; none = 1 2 3."""
        found, bad = seeds_of(words)
        if bad:
            raise ConfigError(
                f"seed {bad[0]!r}: the first word is the data set, further ones are seeds (0, 1, 2 ... or 1-5)"
            )
        return list(dict.fromkeys(found)) or [1, 2, 3]

    @staticmethod
    def _hparams(word):
        if word == "common":
            raise ConfigError("HPARAMS=common is no more (one optimiser suits not all methods): choose matched, each "
                              "method's own and CoOp's number of steps")  # fmt: skip
        if word not in ("", "official", "matched"):
            raise ConfigError(f"HPARAMS={word}: choose official or matched")
        return word

    @staticmethod
    def _number(text, name):
        if text and not _is_number(text):
            raise ConfigError(f"{name}={text}: give a whole number")
        return int(text) if text else 0

    def _shots(self, text):
        protocol = self.protocol
        if -1 in protocol.shots:
            return [-1]
        if not text:
            return list(protocol.demo_shots if self.demo and protocol.demo_shots else protocol.shots)
        if not all(_is_number(n) and int(n) > 0 for n in text.split()):
            raise ConfigError(f"SHOTS={text}: give whole numbers above 0, e.g. SHOTS='1 4 16'")
        return list(dict.fromkeys(map(int, text.split())))

    def _tuned(self, method):
        """{dotted key: value} that the method's authors tuned for this data set on this backbone.

        Raises:
            ConfigError: CFG=tuned asks for what nobody tuned; a method without a tuned.yaml has nothing to ask for.
        """
        there = tuned_for(method, self.protocol.name, self.dataset)
        if self.cfg == "tuned" and self.backbone not in there and tuned(method):
            of = f"{self.dataset} in {self.protocol.name}"
            if not there:
                raise ConfigError(f"CFG=tuned: the authors of {method} tuned nothing for {of}; leave CFG away")
            raise ConfigError(f"CFG=tuned: the values of {method} for {of} were tuned on {_listed(there)}, not on "
                              f"{self.backbone}; set BACKBONE to that, or leave CFG away")
        return there.get(self.backbone, {})

    def _label(self, cfg, kind, opts):
        """What RUN.HPARAMS says: the kind; custom where a setting was changed. Sentences are what a method reads and
        no setting, but the official values are those of a method that reads its authors' lists."""
        from dassl.engine.run_folder import NOT_THE_RUN

        if self.epochs or any(not key.endswith(".SENTENCES") and key not in NOT_THE_RUN for key in opts[::2]):
            return "custom"
        if kind != "official" or "SENTENCES" not in cfg.TRAINER.get(cfg.TRAINER.NAME.upper(), {}):
            return kind
        return kind if _published(cfg) else "official but for its sentences"

    def _without_file(self):
        """The methods that nobody named and that have no file called CFG: they keep their own settings."""
        if self.cfg in ("", "tuned") or self.cfg.endswith(".yaml"):
            return []
        found = [m for m in self.beside if not (method_folder(m) / f"{self.cfg}.yaml").is_file()]
        return found if len(found) < len(self.methods) else []  # a file of nobody is an error

    def notes(self):
        """A line on methods without a file called CFG, and one a method whose authors tuned values for this data set
        that this backbone does not get."""
        if without := self._without_file():
            return [f"CFG={self.cfg} is no file of {_listed(without)}: their own settings."]
        if self.cfg or self.backbone == "demo":
            return []
        left = {m: tuned_for(m, self.protocol.name, self.dataset) for m in self.methods}
        return [
            f"{method}: its values for {self.dataset} were tuned on {_listed(there)}, not on {self.backbone}, and are "
            f"not used; its general ones are."
            for method, there in left.items() if there and self.backbone not in there
        ]

    def specs(self, base):
        """[RunSpec], not yet resolved, in running order: a table fills up evenly, seed by seed.

        Raises:
            ConfigError: HPARAMS=matched is asked for methods alone that have no steps to match.
        """
        why = {m: self._unmatched(m) for m in self.methods}
        if self.asked_hparams == "matched" and all(why.values()):
            raise ConfigError(f"HPARAMS=matched: nothing to match for {self.methods[-1]} - {why[self.methods[-1]]}; "
                              "leave it out")  # fmt: skip
        return [
            spec
            for shots in self.shots
            for seed in self.seeds
            for method in self.methods
            for spec in self._runs(self.spec(base, method, shots, seed))
        ]

    def _runs(self, first):
        """The protocol's runs of one method; one that says why, where it is not defined for the method."""
        from dassl.engine import TRAINER_REGISTRY

        trainer = TRAINER_REGISTRY.get(first.method)
        bound = getattr(trainer, "bound_to_classes", None)
        why = bound(first.config) if bound and self.protocol.other_classes else ""
        if why:
            return [first.but("train", why_not=why)]
        return self.protocol.runs(first, self.targets)

    def _unmatched(self, method):
        """Why a method's steps can't be CoOp's: it then runs as it is; "" if they can."""
        from dassl.engine import TRAINER_REGISTRY

        trainer = TRAINER_REGISTRY.get(method)
        return trainer.without_budget() if hasattr(trainer, "without_budget") else "it is no trainer of Dassl's"

    def _budget(self, base, shots):
        """(epochs, batch size) of CoOp's own training with so many shots; EPOCHS says other epochs."""
        from dassl.config import merge_from_file

        cfg = base.clone()
        for path in method_files("CoOp", self.protocol.files, self.backbone, shots=shots)[0]:
            merge_from_file(cfg, path)
        return self.epochs or cfg.OPTIM.MAX_EPOCH, cfg.DATALOADER.TRAIN_X.BATCH_SIZE

    def spec(self, base, method, shots, seed):
        """The bare RunSpec of a method, number of shots and seed, from which the protocol makes its runs."""
        from cilmp.protocols import RunSpec
        from dassl.config import merge_from_file, merge_from_list
        from dassl.engine import TRAINER_REGISTRY

        cfg, protocol, trainer = own_base(base, method), self.protocol.name, TRAINER_REGISTRY.get(method)
        wanted = "" if method in self._without_file() else self.cfg
        files, name, kind = method_files(method, self.protocol.files, self.backbone, wanted, shots)
        for path in files:
            merge_from_file(cfg, path)
        dataset_file = CONFIGS / "datasets" / f"{self.dataset}.yaml"
        if dataset_file.is_file():
            merge_from_file(cfg, dataset_file)
        if (kind == "official" or self.cfg == "tuned") and (values := self._tuned(method)):
            cfg.RUN.TUNED = True
            merge_from_list(cfg, [x for pair in values.items() for x in pair], f"{method}/tuned.yaml")
        cfg.TRAINER.NAME, cfg.SEED, cfg.THREADS = method, seed, self.threads or cfg.THREADS
        cfg.DATASET.NAME, cfg.DATASET.ROOT = self.dataset, self.root
        cfg.DATASET.NUM_SHOTS, cfg.DATASET.SUBSAMPLE_CLASSES = shots, "all"
        cfg.MODEL.BACKBONE.NAME, cfg.MODEL.BACKBONE.WEIGHTS = self.backbone, self.weights
        cfg.MODEL.LLM = self.llm if getattr(trainer, "needs_llm", False) else ""
        matched = self.hparams == "matched" and not self._unmatched(method)
        if matched:
            cfg.OPTIM.BUDGET = self._budget(base, shots)
            kind = kind if self.cfg else "matched"
        cfg.RUN.PROTOCOL, cfg.RUN.HPARAMS = protocol, kind
        cfg.DATALOADER.NUM_WORKERS = min(cfg.DATALOADER.NUM_WORKERS, os.cpu_count() or 1)
        if self.epochs and not matched:
            cfg.OPTIM.MAX_EPOCH = self.epochs
            for other in ("ITERATIONS_PER_SHOT", "MIN_STEPS"):  # ways to say the length in steps
                if other in cfg.TRAINER.get(method.upper(), {}):
                    cfg.TRAINER[method.upper()][other] = 0
        opts = self._opts_of(cfg, base)
        if opts:
            merge_from_list(cfg, opts, "OPTS")
        cfg.RUN.HPARAMS = self._label(cfg, kind, opts)
        cfg.freeze()
        return RunSpec(cfg, protocol, "", name, plugins=self.plugins, label=self.label)

    def _opts_of(self, cfg, base):
        """OPTS without the keys that only other methods of this table know: a checkout's have a tree of their own."""
        from dassl.config import keys_of
        from dassl.engine import TRAINER_REGISTRY

        if not self.opts:
            return []
        one_of_each_tree = {id(getattr(TRAINER_REGISTRY.get(m), "checkout", None)): m for m in self.methods}
        if len(one_of_each_tree) == 1:
            return self.opts
        pairs = list(zip(self.opts[::2], self.opts[1::2]))
        elsewhere = {key for method in one_of_each_tree.values() for key in keys_of(own_base(base, method))}
        left_out = elsewhere - set(keys_of(cfg))
        return [word for pair in pairs if pair[0] not in left_out for word in pair]


def _published(cfg):
    """Whether the sentences that a run reads are its authors' lists. An LLM's own never are."""
    from dassl.engine import TRAINER_REGISTRY

    from .reads import Knowledge

    trainer = TRAINER_REGISTRY.get(cfg.TRAINER.NAME)
    given = cfg.TRAINER[trainer.node_name()].SENTENCES or cfg.MODEL.LLM
    return given.endswith(".json") and Knowledge(trainer, cfg).published()


def _listed(names):
    """Names in words: A, B and C."""
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last


def seeds_of(words):
    """([seed], [word that is none]) of words; "1-3" is 1, 2, 3 and commas part too."""
    found, bad = [], []
    for word in filter(None, ",".join(map(str, words)).split(",")):
        first, dash, last = word.partition("-")
        if _is_number(first) and (_is_number(last) and int(first) <= int(last) if dash else True):
            found += range(int(first), int(last or first) + 1)
        else:
            bad.append(word)
    return found, bad


def _is_number(text):
    """Digits 0-9 alone: str.isdigit() also takes superscripts, which int() does not."""
    return str(text).isascii() and str(text).isdigit()
