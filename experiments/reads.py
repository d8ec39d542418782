"""What a run will read, hashed: with its settings, this is what "finished" is judged by.

    split       the whole split lists (relative path, label, name), before few-shot sampling
    groups      patients, lesions ... of its images
    weights     the backbone's file
    knowledge   the LLM rows, or the sentences, of all its classes
    draws       the word of a method whose random numbers changed with a version
    code        the file of a method or reader from outside this repository, or all that its checkout loads

Judged is the text of a split, not the pixels: an image replaced under its old name is not noticed.
"""

import inspect

from dassl.utils.errors import UserError
from dassl.utils.io import read_json_object, sha256_file, sha256_of

from .checkout import weights_file
from .settings import CONFIGS

WORDS = {"groups": "groups of images", "weights": "backbone weights", "tested on": "external test images",
         "knowledge": "language-model rows or sentences", "code": "plugin file", "root": "data",
         "draws": "way to draw random numbers"}  # fmt: skip


class Reads:
    """Called with a configuration: {what: SHA-256 or a plain word} of what its run reads; see the module.

    One for a command: what several of its runs read is hashed once, and a later command looks anew.

    Args:
        plan: rows and sentences that a run would make are noted in `to_make` (lines), not missed.
    """

    def __init__(self, plan=False):
        self._known, self.plan, self.to_make = {}, plan, {}

    def __call__(self, cfg):
        from cilmp import backbones, trainers
        from dassl.engine import TRAINER_REGISTRY

        trainer = TRAINER_REGISTRY.get(cfg.TRAINER.NAME)
        found = dict(self.data(cfg.DATASET.NAME, cfg))
        if cfg.DATASET.TEST_ON:
            found["tested on"] = sha256_of(self.data(cfg.DATASET.TEST_ON, cfg))
        if issubclass(trainer, trainers.PromptTrainer):
            model = cfg.MODEL.BACKBONE
            found["weights"] = backbones.weights_sha256(model.NAME, model.WEIGHTS or None)
            if trainer.draws:
                found["draws"] = trainer.draws
            if trainer.needs_llm:
                node = cfg.TRAINER[trainer.node_name()]
                key = (trainer, cfg.DATASET.NAME, cfg.DATASET.ROOT, cfg.MODEL.LLM, str(node))
                found["knowledge"] = self._once(key, lambda: self._knowledge(Knowledge(trainer, cfg)))
        elif hasattr(trainer, "checkout") and (file := weights_file(cfg.MODEL.BACKBONE)):
            found["weights"] = self._once(file, lambda: sha256_file(file))
        if code := [c for c in map(code_of, (trainer, _reader(cfg.DATASET.NAME))) if c]:
            found["code"] = sha256_of(code)
        return found

    def data(self, name, cfg):
        """{what: hash} of a data set."""
        key = (name, cfg.DATASET.ROOT, max(cfg.INPUT.SIZE))
        return self._once(key, lambda: _data(*key, cfg))

    def _knowledge(self, knowledge):
        if self.plan and (line := knowledge.to_make()):
            self.to_make[line] = None
            return "to be made"
        return knowledge.sha256()

    def _once(self, key, compute):
        if key not in self._known:
            self._known[key] = compute()
        return self._known[key]


def differing(before, now):
    """Words for what two {what: hash} differ in."""
    return [WORDS.get(k, k) for k in sorted({*before, *now}) if before.get(k) != now.get(k)]


def _data(name, root, size, cfg):
    from cilmp import datasets

    if is_ours(name):
        found = datasets.reads(name, root, size)
        return found | {"root": root} if name in datasets.locate.FOLDER_SETS else found  # ROOT is the set itself
    from dassl.data.hashing import split_hashes

    return {"split": split_hashes(_whole(cfg))["split_sha256"]}


def _whole(cfg):
    """The data set of a reader of the user's own, with all images and classes."""
    from dassl.data.datasets import build_dataset

    cfg = cfg.clone()
    cfg.defrost()
    cfg.DATASET.NUM_SHOTS, cfg.DATASET.SUBSAMPLE_CLASSES, cfg.VERBOSE = -1, "all", False
    return build_dataset(cfg)


def info_of(cfg):
    """DatasetInfo of a configuration's set; of a reader of the user's own from its class's `classnames`, else from its
    data, read once."""
    from cilmp import datasets

    name = cfg.DATASET.NAME
    if is_ours(name):
        return datasets.info(name, cfg.DATASET.ROOT)
    offered = getattr(_reader(name), "classnames", None)
    if isinstance(offered, (list, tuple)):
        return datasets.locate.describe(name, offered)
    built = _whole(cfg)
    return getattr(built, "info", None) or datasets.locate.describe(name, built.classnames)


def is_ours(name):
    """False for a reader of the user's own (a plugin): it may keep its files as it likes."""
    from cilmp import datasets

    reader = _reader(name)
    return reader is None or issubclass(reader, datasets.SplitDataset)


def _reader(name):
    """The registered reader class of a name; None for a folder with a split.json."""
    from dassl.data.datasets import DATASET_REGISTRY

    return DATASET_REGISTRY.get(name) if name in DATASET_REGISTRY else None


def code_of(cls):
    """Hash of the file that defines a class, or of the checkout it stands for; None if it is ours."""
    if hasattr(cls, "checkout"):
        return cls.checkout.sha256
    if cls is None or cls.__module__.split(".")[0] in ("dassl", "cilmp"):
        return None
    try:
        return sha256_file(inspect.getfile(cls))
    except (TypeError, OSError):
        return None


class Knowledge:
    """What a method reads of a language model for the classes of one data set: there, or made on demand."""

    def __init__(self, trainer, cfg):
        self.rows, self.node, self.info = trainer.llm_form == "rows", cfg.TRAINER[trainer.node_name()], info_of(cfg)
        self.names, self.dataset, self.llm = list(self.info.classnames), cfg.DATASET.NAME, cfg.MODEL.LLM
        self.kind = self.node.get("KNOWLEDGE", "real")  # a method of one's own need not have controls
        self.method = cfg.TRAINER.NAME

    def store(self):
        from cilmp import knowledge

        if self.rows:
            return knowledge.controls.store(self.dataset, self.llm, self.info, self.names, self.kind)
        return knowledge.PromptEnsembles(self.dataset, self.node.SENTENCES or self.llm, phrases=self.info.phrases())

    def sha256(self):
        if self.rows:
            return self.store().sha256(self.names)
        return self.store().sha256(self.names, self.node.N_PROMPTS)

    def published(self):
        """Whether the sentences are the lists that the method's authors published: the first N of each class."""
        path = CONFIGS / "trainers" / self.method / "sentences.json"
        if self.rows or not path.is_file():
            return False
        try:
            found = self.store().lookup(self.names, self.node.N_PROMPTS)
        except UserError:  # none yet; what is missing is said, or made, where runs begin
            return False
        known = set(read_json_object(path)["sha256"].values())
        return all(sha256_of(sentences) in known for sentences in found)

    def to_make(self):
        """A line on what nobody has yet and a run makes; "" where nothing is, or a file of the user's own is named."""
        why = "" if not self.rows and self.node.SENTENCES else self.store().missing(self.names)
        return why.split(";")[0] if why else ""

    def ensure(self):
        """Extract or sample what nobody has yet, saying so."""
        from cilmp import knowledge

        store = self.store()
        if not (why := self.to_make()):
            if not self.rows:
                store.lookup(self.names, self.node.N_PROMPTS)
            return
        print(f"{why}; making it now", flush=True)
        if self.rows:
            path = knowledge.extract(self.dataset, self.names, self.llm, store.questions,
                                     knowledge.controls.template(self.kind))  # fmt: skip
        else:
            n = self.node.N_PROMPTS
            path = knowledge.sample(self.dataset, self.names, self.llm, n, phrases=self.info.phrases())
        print(f"written: {path}", flush=True)
