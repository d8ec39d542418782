"""The BiomedCoOp sets that are not CILMP's too; names and counts are those of the published split files.

Their published copies (https://huggingface.co/datasets/TahaKoleilat/BiomedCoOp) hold <Dir>/split_<Dir>.json and the
images under <Dir>/<Dir>/: read as they are. BUSI, Kvasir and DermaMNIST are in the other table.
"""

from cilmp.datasets.facts import Facts, Layout, Table

BIOMEDCOOP = Table()
RANDOM = "published 50/20/30 a class; ours 70/10/20, stratified"


def _layout(name):
    return (Layout(name, f"split_{name}.json", name),)


BIOMEDCOOP.add(
    Facts("BTMRI", "BiomedCoOp", "brain MRI slice", "brain",
          (("glioma tumor", "glioma"), ("meningioma tumor", "meningioma"),
           ("pituitary tumor", "pituitary tumour"), ("normal brain", "")),
          _layout("BTMRI"), (1621, 1645, 1757, 2000),
          "Kaggle's Training / Testing (the published 50/20/30 split uses Training alone, 5,712)",
          "none: slices of a patient are in all partitions",
          "https://www.kaggle.com/datasets/masoudnickparvar/brain-tumor-mri-dataset", "CC0 (unsure)",
          sources=("nickparvar-brain",), download="kaggle:masoudnickparvar/brain-tumor-mri-dataset"),
    Facts("CHMNIST", "BiomedCoOp", "H&E-stained colorectal histopathology patch", "colon",
          (("adipose tissue", ""), ("complex stroma", "stroma with single tumour or immune cells"),
           ("debris", "necrotic debris with mucus and red cells"),
           ("empty background", "glass background without tissue"), ("immune cells", "lymphoid aggregate"),
           ("normal mucosal glands", ""), ("simple stroma", "homogeneous stroma, smooth muscle included"),
           ("tumour epithelium", "")),
          _layout("CHMNIST"), (625,) * 8, RANDOM + ", whole slides", "slide id in the name (10 slides)",
          "https://zenodo.org/records/53169", "CC BY 4.0", sources=("kather2016",),
          pattern=r"(CRC-Prim-HE-\d+)", download="zenodo:53169"),
    Facts("COVID_19", "BiomedCoOp", "chest X-ray image", "lung",
          (("covid lungs", "COVID-19 pneumonia"), ("lung opacity lungs", "non-COVID lung opacity"),
           ("viral pneumonia lungs", "viral pneumonia"), ("normal lungs", "")),
          _layout("COVID_19"), (3616, 6012, 1345, 10192), RANDOM, "near duplicates (same picture); no patient id",
          "https://www.kaggle.com/datasets/tawsifurrahman/covid19-radiography-database", "see the page",
          note="class confounded with age and source", sources=("covid-radiography", "kermany-cxr", "cohen-covid"),
          download="kaggle:tawsifurrahman/covid19-radiography-database"),
    Facts("CTKidney", "BiomedCoOp", "abdominal CT slice of the kidney", "kidney",
          (("cyst kidney", "kidney with a simple cyst"), ("kidney stone", ""), ("kidney tumor", "kidney tumour"),
           ("normal kidney", "")),
          _layout("CTKidney"), (3709, 1377, 2283, 5077), RANDOM, "none: slices of a patient are in all partitions",
          "https://www.kaggle.com/datasets/nazmul0087/ct-kidney-dataset-normal-cyst-tumor-and-stone", "see the page",
          sources=("ct-kidney",), download="kaggle:nazmul0087/ct-kidney-dataset-normal-cyst-tumor-and-stone"),
    Facts("KneeXray", "BiomedCoOp", "knee X-ray image", "knee",
          (("healthy knee", "Kellgren-Lawrence grade 0: no narrowing"),
           ("doubtful osteoarthritis", "Kellgren-Lawrence grade 1: doubtful narrowing, possible lipping"),
           ("minimal osteoarthritis", "Kellgren-Lawrence grade 2: definite osteophytes"),
           ("moderate osteoarthritis", "Kellgren-Lawrence grade 3: multiple osteophytes with clear narrowing"),
           ("severe osteoarthritis", "Kellgren-Lawrence grade 4: large osteophytes, bone-on-bone, sclerosis")),
          _layout("KneeXray"), (3253, 1495, 2175, 1086, 251), "official 5,778 / 826 / 1,656",
          "patient: the digits before L or R", "https://data.mendeley.com/datasets/56rmx5bjcr/1", "CC BY 4.0",
          sources=("oai-knee",), pattern=r"^(\d+)[LR]",
          download="kaggle:shashwatwork/knee-osteoarthritis-dataset-with-severity"),
    Facts("LungColon", "BiomedCoOp", "H&E-stained lung or colon histopathology image", "lung, colon",
          (("colon adenocarcinoma", ""), ("colon benign tissue", "benign colon tissue"), ("lung adenocarcinoma", ""),
           ("lung benign tissue", "benign lung tissue"), ("lung squamous cell carcinoma", "")),
          _layout("LungColon"), (5000,) * 5, RANDOM, "none: 25,000 augmentations of 1,250 images, origin lost",
          "https://www.kaggle.com/datasets/andrewmvd/lung-and-colon-cancer-histopathological-images", "see the page",
          note="near copies in every partition", sources=("lc25000",),
          download="kaggle:andrewmvd/lung-and-colon-cancer-histopathological-images"),
    Facts("OCTMNIST", "BiomedCoOp", "retinal OCT B-scan", "retina",
          (("choroidal neovascularization", "choroidal neovascularization: subretinal lesion with fluid"),
           ("diabetic macular edema", "diabetic macular edema: thickened retina with cysts"),
           ("drusen", "drusen: bumps under the pigment epithelium"),
           ("normal", "normal retina with regular foveal pit")),
          (Layout("octmnist", "octmnist.json"), Layout("OCTMNIST", "split_OCTMNIST.json", "OCTMNIST")), (),
          "MedMNIST's 97,477 / 10,832 / 1,000", "none in the npz (train and val are random by image)",
          "https://zenodo.org/records/10519652", "CC BY 4.0", aliases=("octmnist",), flag="octmnist",
          parts=(97477, 10832, 1000), sources=("kermany-oct",),
          dialect={"normal OCT scan": "normal retina with regular foveal pit"}, download="zenodo:10519652"),
    Facts("RETINA", "BiomedCoOp", "colour fundus photograph", "retina",
          (("diabetic retinopathy", ""), ("glaucoma", "glaucomatous optic disc"),
           ("cataract", "fundus seen through a cataract"), ("normal retina", "normal fundus")),
          _layout("RETINA"), (1098, 1007, 1038, 1074), RANDOM + ", grouped",
          "patient number before _left / _right, with its source (told by the suffix: numbers are used twice)",
          "https://www.kaggle.com/datasets/gunavenkatdoddi/eye-diseases-classification", "see the page",
          note="published split: patients of the test set are also in train", sources=("odir", "retina-mix"),
          pattern=r"^(\d+)_(?:left|right)(\.\w+)$",
          download="kaggle:gunavenkatdoddi/eye-diseases-classification"),
)
