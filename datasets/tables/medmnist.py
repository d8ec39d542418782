"""The single-label 2-D sets of MedMNIST that are in no other table; `flag` names the npz file.

ChestMNIST is not here: it is multi-label. RetinaMNIST's labels are digits in the file; they get the names of the
grades. Left and right organs: no flips.
"""

from cilmp.datasets.facts import Facts, Layout, Table
from cilmp.datasets.tables.cilmp import DR_GRADES, FUNDUS

MEDMNIST = Table()
ZENODO = "https://zenodo.org/records/10519652"
ORGANS = (("bladder", ""), ("femur-left", "left femur head"), ("femur-right", "right femur head"), ("heart", ""),
          ("kidney-left", "left kidney"), ("kidney-right", "right kidney"), ("liver", ""),
          ("lung-left", "left lung"), ("lung-right", "right lung"), ("pancreas", ""), ("spleen", ""))


def _medmnist(flag, modality, organ, classes, counts, group, sources, lateral=False):
    """A row; `counts` are the official train, val and test."""
    return Facts(flag, "MedMNIST", modality, organ, classes, (Layout(flag, f"{flag}.json"),), (),
                 "MedMNIST's {:,} / {:,} / {:,}".format(*counts), group, ZENODO, "CC BY 4.0", lateral=lateral,
                 flag=flag, parts=counts, sources=sources, download="zenodo:10519652")


MEDMNIST.add(
    _medmnist("pathmnist", "H&E-stained colorectal histopathology patch", "colon",
              (("adipose", "adipose tissue"), ("background", "slide background without tissue"),
               ("debris", "necrotic debris"), ("lymphocytes", ""), ("mucus", "extracellular mucus"),
               ("smooth muscle", ""), ("normal colon mucosa", ""), ("cancer-associated stroma", ""),
               ("colorectal adenocarcinoma epithelium", "")), (89996, 10004, 7180),
              "test is of other patients; val is random from the train slides", ("nct-crc",)),
    _medmnist("pneumoniamnist", "paediatric chest X-ray image", "lung",
              (("normal", "normal lungs of a child"), ("pneumonia", "pneumonia in a child")), (4708, 524, 624),
              "none in the npz", ("kermany-cxr",)),
    _medmnist("retinamnist", FUNDUS, "retina", DR_GRADES, (1080, 120, 400), "none in the npz", ("deepdrid",)),
    _medmnist("breastmnist", "breast ultrasound image", "breast",
              (("malignant", "malignant breast tumour"),
               ("normal, benign", "breast without malignant tumour (normal or benign mass)")), (546, 78, 156),
              "none in the npz", ("busi",)),
    _medmnist("tissuemnist", "fluorescence microscopy image of kidney cortex cells", "kidney",
              (("Collecting Duct, Connecting Tubule", ""), ("Distal Convoluted Tubule", ""),
               ("Glomerular endothelial cells", ""), ("Interstitial endothelial cells", ""), ("Leukocytes", ""),
               ("Podocytes", ""), ("Proximal Tubule Segments", ""), ("Thick Ascending Limb", "")),
              (165466, 23640, 47280), "none in the npz", ("bbbc051",)),
    _medmnist("organamnist", "axial abdominal CT slice", "abdomen", ORGANS, (34561, 6491, 17778),
              "split by CT scan", ("lits",), lateral=True),
    _medmnist("organcmnist", "coronal abdominal CT slice", "abdomen", ORGANS, (12975, 2392, 8216),
              "split by CT scan", ("lits",), lateral=True),
    _medmnist("organsmnist", "sagittal abdominal CT slice", "abdomen", ORGANS, (13932, 2452, 8827),
              "split by CT scan", ("lits",), lateral=True),
)
