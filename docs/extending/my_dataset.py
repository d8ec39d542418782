r"""A reader of your own, as for CoOp and Dassl: copy this file, change `read`, and run

    python train.py --plugin my_dataset.py --dataset MyDataset --root ~/data --trainer CoOp --backbone ViT-B/16 \
        --config-file configs/trainers/CoOp/vit_b16.yaml
    PLUGIN=my_dataset.py DATA=~/data bash scripts/few_shot.sh CoOp MyDataset

A folder of class folders or a table needs no reader: `cilmp prepare folder --raw DIR --name mydata`.
"""

from pathlib import Path

from dassl.data.datasets import DATASET_REGISTRY, DatasetBase, Datum
from dassl.utils.errors import MissingFile

CLASSES = ["healthy", "ill"]  # in label order
PARTS = ("train", "val", "test")


@DATASET_REGISTRY.register()
class MyDataset(DatasetBase):
    """<root>/my_dataset/<train|val|test>/<class>/*.png"""

    dataset_dir = "my_dataset"

    def __init__(self, cfg):
        root = Path(cfg.DATASET.ROOT).expanduser() / self.dataset_dir
        if not root.is_dir():
            raise MissingFile(f"no folder {root}; set DATA (--root) to the folder that holds {self.dataset_dir}/")
        train, val, test = (self.read(root / part) for part in PARTS)
        if cfg.DATASET.NUM_SHOTS >= 1:  # train first, then val: Dassl's order, so that seeds mean the same
            train = self.generate_fewshot_dataset(train, num_shots=cfg.DATASET.NUM_SHOTS)
            val = self.generate_fewshot_dataset(val, num_shots=min(cfg.DATASET.NUM_SHOTS, 4))
        super().__init__(train_x=train, val=val or None, test=test)

    @staticmethod
    def read(folder):
        return [
            Datum(impath=str(path), label=label, classname=name)
            for label, name in enumerate(CLASSES)
            for path in sorted((folder / name).glob("*.png"))
        ]
