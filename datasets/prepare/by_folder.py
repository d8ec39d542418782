"""Public sets whose label is a folder name: a row says which folder is which class.

The class of an image is that of the nearest folder above it that a row names; folders in `skip` are left out.
"""

from dataclasses import dataclass, field

from cilmp.datasets.prepare.base import Image, Raw
from cilmp.datasets.prepare.files import find_images, need_folder
from dassl.utils.errors import MissingFile, UserError
from dassl.utils.names import plain


@dataclass(frozen=True)
class ByFolder:
    """One layout; folder names are compared in lower case with blanks, dashes and underscores alike."""

    classes: dict  # folder -> class name
    parts: dict = field(default_factory=dict)  # folder -> official part
    skip: tuple = ()  # folders whose images don't count
    drop: str = ""  # regular expression of file names that don't count
    ratios: tuple = (0.7, 0.1, 0.2)
    duplicates: bool = False  # no id: near duplicates stay in one part

    def prepare(self, raw, facts):
        raw, classnames = need_folder(raw), facts.classnames
        classes = {plain(k): v for k, v in self.classes.items()}
        parts = {plain(k): v for k, v in self.parts.items()}
        skip = set(map(plain, self.skip))
        images, seen = [], {}
        for file in find_images(raw, self.drop):
            folders = [plain(f) for f in (raw.name, *file.relative_to(raw).parts[:-1])]
            name = next((classes[f] for f in reversed(folders) if f in classes), None)
            if name is None or skip & set(folders):
                continue
            part = next((parts[f] for f in reversed(folders) if f in parts), "")
            if self.parts and not part:
                continue
            key = (part, name, file.name)
            if seen.setdefault(key, file) != file:  # the same tree a second time inside the download
                continue
            images.append(Image(file, name, part, facts.group_of(file.name)))
        self._check(images, classnames, raw)
        key = facts.group if any(im.group for im in images) else ""
        return Raw(images, classnames, key, self.ratios, self.duplicates)

    def _check(self, images, classnames, raw):
        found = {im.classname for im in images}
        missing = [c for c in classnames if c not in found]
        if missing:
            folders = [f for f, c in self.classes.items() if c == missing[0]]
            raise MissingFile(f"{raw}: no image of {missing[0]!r}; expected a folder {' or '.join(folders)}"
                              + (f" below {' and '.join(self.parts)}" if self.parts else ""))
        if extra := found - set(classnames):
            raise UserError(f"class {extra.pop()!r} is not in the table")


ROWS = {
    "BUSI": ByFolder({c: c for c in ("normal", "malignant", "benign")}, drop=r"_mask", duplicates=True),
    "CPN_X_RAY": ByFolder({"NORMAL": "normal", "COVID": "covid", "COVID19": "covid", "COVID-19": "covid",
                           "PNEUMONIA": "pneumonia"}, duplicates=True),
    "KVASIR": ByFolder({c.replace("normal z-line", "normal-z-line"): c for c in (
        "dyed lifted polyps", "dyed resection margins", "esophagitis", "normal cecum", "normal pylorus",
        "normal z-line", "polyps", "ulcerative colitis")}, ratios=(0.8, 0.1, 0.1)),
    "BTMRI": ByFolder({"glioma": "glioma tumor", "meningioma": "meningioma tumor", "pituitary": "pituitary tumor",
                       "notumor": "normal brain"}, parts={"Training": "train", "Testing": "test"}),
    "CHMNIST": ByFolder({"01_TUMOR": "tumour epithelium", "02_STROMA": "simple stroma", "03_COMPLEX": "complex stroma",
                         "04_LYMPHO": "immune cells", "05_DEBRIS": "debris", "06_MUCOSA": "normal mucosal glands",
                         "07_ADIPOSE": "adipose tissue", "08_EMPTY": "empty background"}),
    "COVID_19": ByFolder({"COVID": "covid lungs", "Lung_Opacity": "lung opacity lungs",
                          "Viral Pneumonia": "viral pneumonia lungs", "Normal": "normal lungs"},
                         skip=("masks",), duplicates=True),
    "CTKidney": ByFolder({"Cyst": "cyst kidney", "Stone": "kidney stone", "Tumor": "kidney tumor",
                          "Normal": "normal kidney"}),
    "KneeXray": ByFolder({"0": "healthy knee", "1": "doubtful osteoarthritis", "2": "minimal osteoarthritis",
                          "3": "moderate osteoarthritis", "4": "severe osteoarthritis"},
                         parts={"train": "train", "val": "val", "test": "test"}, skip=("auto_test",)),
    "LungColon": ByFolder({"colon_aca": "colon adenocarcinoma", "colon_n": "colon benign tissue",
                           "lung_aca": "lung adenocarcinoma", "lung_n": "lung benign tissue",
                           "lung_scc": "lung squamous cell carcinoma"}),
    "RETINA": ByFolder({"diabetic_retinopathy": "diabetic retinopathy", "glaucoma": "glaucoma",
                        "cataract": "cataract", "normal": "normal retina"}),
}
