"""Every reader in Dassl's registry, and the names that are not there: folders with a split.json under DATA."""

from dassl.data.datasets import DATASET_REGISTRY, set_fallback
from datasets.locate import canonical, is_split_folder, not_found
from datasets.readers import CSV, DICOM, ImageFolder, reader
from datasets.tables import TABLE

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


set_fallback(lambda name, cfg: resolve(name, cfg.DATASET.ROOT))
