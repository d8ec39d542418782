"""A run's trainer, built again without its data: what stood in the data set is what the run kept of it."""

from cilmp.experiments import kept as keeping
from cilmp.experiments.plugins import hash_of, listed
from cilmp.experiments.reads import code_of
from dassl.data.datasets import DatasetBase, Datum
from dassl.utils.errors import ConfigError, UserError

from . import bundle


def built(folder, results, kept, device="auto", weights="", plugin=(), backbone=""):
    """The trainer of a run, ready for its learned tensors; nothing of its data is read.

    Args:
        backbone: where the backbone lies inside a bundle, "" where it does not.
    """
    from dassl.engine import TRAINER_REGISTRY

    cfg = config_of(folder, results, kept, device, weights, plugin, backbone)
    trainer = TRAINER_REGISTRY.get(cfg.TRAINER.NAME)
    if kept.get("code") != code_of(trainer):
        raise another(f"the file of method {cfg.TRAINER.NAME}")
    if not backbone:  # a bundle's own was compared with the bundle
        check_backbone(cfg, results)
    return for_use(trainer, kept)(cfg)


def config_of(folder, results, kept, device, weights, plugin, backbone=""):
    """The run's configuration, with the places of this machine."""
    from cilmp.experiments.settings import base_config, own_base
    from dassl.config import set_key

    spec = results["spec"]
    plugin = listed(plugin)
    if kept.get("code") and bundle.is_bundle(folder) and not plugin:
        raise UserError(f"{folder} is of a method of one's own, {spec['method']}, whose file is not in the bundle: "
                        f"give it with --plugin (in Python plugin=)")  # fmt: skip
    plugin = plugin or (kept["plugins"] if kept.get("code") else [])  # of a reader of one's own nothing is needed
    plugin = compared(plugin, kept)
    cfg = own_base(base_config(plugin), spec["method"])
    values = spec["settings"] | {f"INPUT.{key}": value for key, value in kept["input"].items()}
    for key, value in values.items():
        try:
            set_key(cfg, key, value, folder / "results.json")
        except (ConfigError, KeyError) as error:
            if not key.startswith("DATASET."):  # a reader's own key
                raise UserError(f"{folder} is of another version of the toolbox ({kept['version']}): {error}") from None
    cfg.OUTPUT_DIR, cfg.VERBOSE, cfg.THREADS = "", False, 0
    cfg.TRAIN.COMPILE = cfg.TRAIN.CHECKPOINTING = False
    cfg.OPTIM.BUDGET, cfg.TEST.FINAL_MODEL = (), "last_step"
    cfg.USE_CUDA = _wants_cuda(device)
    if backbone:
        cfg.MODEL.BACKBONE.NAME, cfg.MODEL.BACKBONE.WEIGHTS = f"local-dir:{(folder / backbone).absolute()}", ""
    cfg.MODEL.BACKBONE.WEIGHTS = str(weights) or cfg.MODEL.BACKBONE.WEIGHTS
    _knowledge_from(folder, cfg)
    cfg.freeze()
    return cfg


def compared(plugins, kept):
    """The plugins whose files are those that the run was trained with, by their hashes: nothing of them runs before.

    Raises:
        MissingFile: no such file. UserError: another file than the run's.
    """
    if not kept.get("code"):  # the method is ours, or was registered by what the caller imported
        return plugins
    hashes = {plugin: hash_of(plugin) for plugin in plugins}
    own = [plugin for plugin in plugins if hashes[plugin] in (kept["code"], *kept.get("plugins_sha256", ()))]
    others = [plugin for plugin in plugins if plugin not in own]
    if others and ("plugins_sha256" in kept or not own):  # an older run knows the file of its method alone
        raise another(others[0])
    return own


def another(what):
    return UserError(f"{what} is another than the run was trained with: give that one with --plugin (in Python "
                     f"plugin=)")  # fmt: skip


def _wants_cuda(device):
    import torch

    if device not in ("auto", "cpu", "cuda"):
        raise ConfigError(f"device {device!r}: choose auto, cpu or cuda")
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device cuda: there is none here; choose auto or cpu")
    return device != "cpu"


def _knowledge_from(folder, cfg):
    """Rows and sentences are those that the run kept."""
    node = cfg.TRAINER.get(cfg.TRAINER.NAME.upper(), {})
    if (folder / keeping.ROWS).is_file():
        cfg.MODEL.LLM = str((folder / keeping.ROWS).absolute())
        if node.get("KNOWLEDGE") in ("wrong_modality", "name_only"):  # kept rows are what was asked so
            node.KNOWLEDGE = "real"
    if (folder / keeping.SENTENCES).is_file():
        node.SENTENCES = str((folder / keeping.SENTENCES).absolute())


def check_backbone(cfg, results):
    """UserError where the weights here are not those the run was trained on."""
    from cilmp import backbones

    wanted, name = results.get("reads", {}).get("weights"), cfg.MODEL.BACKBONE.NAME
    if not wanted or wanted == name:  # a plugin's own; or a name whose file nobody had when the run was planned
        return
    weights = cfg.MODEL.BACKBONE.WEIGHTS or None
    backbones.fetch(name, weights)
    found = backbones.weights_sha256(name, weights)
    if found != wanted:
        raise UserError(f"the weights of backbone {name} on this machine ({found[:12]}) are not those the run was "
                        f"trained on ({wanted[:12]}): give their file with --weights (in Python weights=)")  # fmt: skip


class KeptData(DatasetBase):
    """Stands where the run's data set stood: its classes, and how many images of each it had."""

    def __init__(self, kept):
        self.knowledge_names, self.modality = kept["knowledge_names"], kept["modality"]
        parts = {part: [Datum("", label, 0, kept["classes"][label]) for label in labels]
                 for part, labels in kept["labels"].items()}  # fmt: skip
        super().__init__(train_x=parts["train_x"], val=parts["val"] or None, test=[])
        self._num_classes, self._classnames = len(kept["classes"]), list(kept["classes"])
        self._lab2cname = dict(enumerate(kept["classes"]))


class KeptDataManager:
    """Stands where the DataManager stood; there is nothing to load."""

    train_loader_x = train_loader_u = val_loader = test_loader = ()
    num_source_domains = 0

    def __init__(self, kept):
        self.dataset = KeptData(kept)
        self.num_classes, self.lab2cname = self.dataset.num_classes, self.dataset.lab2cname


def for_use(trainer, kept):
    """A trainer's class that is built of kept facts, and of the learner alone where it can be."""
    from cilmp.trainers import PromptTrainer

    def build_data_loader(self):
        self.dm = KeptDataManager(kept)
        for name in ("train_loader_x", "train_loader_u", "val_loader", "test_loader", "num_classes",
                     "num_source_domains", "lab2cname"):  # fmt: skip
            setattr(self, name, getattr(self.dm, name))

    def build_model(self):
        self.build_learner()
        if self.model.checkpoint_tensors():
            self.register_model(self.model_name, self.model)

    own = {"build_data_loader": build_data_loader, "__module__": trainer.__module__}
    if issubclass(trainer, PromptTrainer):
        own["build_model"] = build_model
    return type(trainer.__name__, (trainer,), own)
