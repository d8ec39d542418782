"""Every reader in Dassl's registry, and the names that are not there: folders with a split.json under DATA."""

from cilmp.datasets.locate import canonical, is_split_folder, not_found
from cilmp.datasets.readers import CSV, DICOM, ImageFolder, reader
from cilmp.datasets.tables import TABLE
from dassl.data.datasets import DATASET_REGISTRY, set_fallback

for _name, _facts in TABLE.items():
    if _name not in DATASET_REGISTRY:  # a plugin's reader of that name was first
        DATASET_REGISTRY.register(reader(_name, _facts))
for _class in (reader("phantom"), ImageFolder, DICOM, CSV):
    DATASET_REGISTRY.register(_class)


def resolve(name, root=""):
    """The reader class of a data set name; UnknownName lists what there is and the command that makes a new one."""
    spelled = canonical(name)
    if spelled in DATASET_REGISTRY.registered_names():
        return DATASET_REGISTRY.get(spelled)
    if is_split_folder(name, root):
        return reader(str(name))
    raise not_found(name, root)


def reads(name, root="", size=224):
    """What a run on a set reads, as SHA-256 and without a reader's lists: {"split": of the whole lists before
    few-shot sampling, "groups": of the groups}. No image is opened; {} for a plugin's reader without `locate`.

    Args:
        size: max(INPUT.SIZE); it chooses among the sizes of a MedMNIST npz.
    """
    reader = resolve(name, root)
    return reader.locate(name, root, size).reads() if hasattr(reader, "locate") else {}


set_fallback(lambda name, cfg: resolve(name, cfg.DATASET.ROOT))
