import os

from dassl.data.datasets import DATASET_REGISTRY, DatasetBase, Datum

NAMES = ["circle", "square", "star", "wedge"]


@DATASET_REGISTRY.register()
class Shapes(DatasetBase):
    """Drawn shapes."""

    dataset_dir = "shapes"

    def __init__(self, cfg):
        folder = os.path.join(cfg.DATASET.ROOT, self.dataset_dir)
        parts = {part: self.read(os.path.join(folder, part)) for part in ("train", "val", "test")}
        train = self.generate_fewshot_dataset(parts["train"], num_shots=cfg.DATASET.NUM_SHOTS)
        super().__init__(train_x=train, val=parts["val"], test=parts["test"])

    @staticmethod
    def read(folder):
        return [Datum(os.path.join(folder, file), NAMES.index(file.split("_")[0]), 0, file.split("_")[0])
                for file in sorted(os.listdir(folder))]  # fmt: skip
