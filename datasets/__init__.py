"""Medical image data sets. Importing this registers every reader with Dassl's DATASET_REGISTRY.

    datasets.info("BUSI", root)      class names, modality phrase, wording (no image is opened)
    datasets.resolve("mydata", root) the reader class; any folder with a split.json under the root is a data set
    datasets.reads("mydata", root)   hashes of the split and the groups that a run reads
    datasets.known(root)             [(name, one line)]
    datasets.overlap("ISIC", "DERMAMNIST")  what two sets share; refuse_overlap raises
"""

from cilmp.datasets.locate import DatasetInfo, canonical, data_root, info, known
from cilmp.datasets.overlap import overlap, refuse_overlap
from cilmp.datasets.readers import CSV, DICOM, ImageFolder
from cilmp.datasets.registration import reads, resolve
from cilmp.datasets.split_dataset import SplitDataset
from cilmp.datasets.tables import TABLE

__all__ = ["CSV", "DICOM", "TABLE", "DatasetInfo", "ImageFolder", "SplitDataset", "canonical",
           "data_root", "info", "known", "overlap", "reads", "refuse_overlap", "resolve"]
