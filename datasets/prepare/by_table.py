"""Public sets whose labels stand in a table: one function each, from the raw folder to a Raw."""

import json
import re
from collections import Counter

from cilmp.datasets.prepare.base import (
    Image,
    Raw,
    by_stem,
    column,
    find,
    look_up,
    read_table,
)
from cilmp.datasets.prepare.files import find_images, need_folder
from cilmp.datasets.tables import TABLE
from dassl.utils.errors import UserError


def adam(raw):
    """Training400: folders AMD and Non-AMD, else the first letter of the name, A0001 or N0001; masks don't count."""
    raw, names = need_folder(raw), TABLE["ADAM"].classnames
    images = []
    for file in find_images(find(raw, "Training400", kind="folder", needed=False) or raw):
        folders = {f.lower() for f in file.relative_to(raw).parts[:-1]}
        if re.match(r"[AN]\d+$", file.stem, re.IGNORECASE) and not any("mask" in f for f in folders):
            ill = "non-amd" not in folders and ("amd" in folders or file.stem[0].upper() == "A")
            images.append(Image(file, names[ill]))
    return Raw(images, names, ratios=(0.6, 0.2, 0.2))


def aptos(raw):
    """Kaggle: train.csv + train_images. The re-split copy: train_1.csv, valid.csv, test.csv + three folders."""
    raw, names = need_folder(raw), TABLE["APTOS"].classnames
    resplit = find(raw, "valid.csv", kind="file", needed=False)
    tables = {"train_1.csv": ("train", "train_images"), "valid.csv": ("val", "val_images"),
              "test.csv": ("test", "test_images")} if resplit else {"train.csv": ("", "train_images")}
    images = []
    for file, (part, folder) in tables.items():
        path = find(raw, file, kind="file")
        index = by_stem(_once(find_images(find(raw, folder, kind="folder"))))
        for row in read_table(path):
            grade = column(row, "diagnosis", path)
            if grade not in "01234" or len(grade) != 1:
                raise UserError(f"{path}: diagnosis {grade!r}; grades are 0 to 4")
            images.append(Image(look_up(index, column(row, "id_code", path), path), names[int(grade)], part))
    return Raw(images, names, duplicates=not resplit)


def _once(files):
    """Files of a tree that a zip nested in itself: one for each name."""
    return list({file.name.lower(): file for file in reversed(files)}.values())[::-1]


def chaoyang(raw):
    """train.json, test.json: [{"name": path, "label": 0..3}]; the case number starts the file name."""
    raw, names = need_folder(raw), TABLE["CHAOYANG"].classnames
    images = []
    for part in ("train", "test"):
        path = find(raw, f"{part}.json", kind="file")
        for row in json.loads(path.read_text(encoding="utf-8-sig")):
            source = path.parent / row["name"]
            case = re.match(r"\d+", source.name)
            images.append(Image(source, names[int(row["label"])], part, f"{part} case {case[0]}" if case else ""))
    return Raw(images, names, "case number at the start of the file name, with its part")


def derm7pt(raw):
    """meta.csv (diagnosis, derm, case_num) and three files of row numbers; the dermoscopic image of each case."""
    raw, names = need_folder(raw), TABLE["Derm7pt"].classnames
    meta = find(raw, "meta.csv", kind="file")
    rows = read_table(meta)
    folder = find(raw, "images", kind="folder")
    index = {f.relative_to(folder).as_posix().lower(): f for f in find_images(folder)}
    parts = {}
    for part, file in (("train", "train_indexes.csv"), ("val", "valid_indexes.csv"), ("test", "test_indexes.csv")):
        path = find(raw, file, kind="file")
        parts |= {int(float(column(row, "indexes", path))): part for row in read_table(path)}
    images = [Image(look_up(index, column(rows[i], "derm", meta), meta),
                    derm7pt_class(column(rows[i], "diagnosis", meta)), parts[i], column(rows[i], "case_num", meta))
              for i in sorted(parts)]
    return Raw(images, names, "case_num")


DERM7PT = {"basal cell carcinoma": "carcinoma", "seborrheic keratosis": "keratosis", "melanoma": "melanoma",
           **dict.fromkeys(("melanoma (in situ)", "melanoma (less than 0.76 mm)", "melanoma (0.76 to 1.5 mm)",
                            "melanoma (more than 1.5 mm)", "melanoma metastasis"), "melanoma"),
           **dict.fromkeys(("dermatofibroma", "lentigo", "melanosis", "miscellaneous", "vascular lesion"),
                           "miscellaneous"),
           **dict.fromkeys(("blue nevus", "clark nevus", "combined nevus", "congenital nevus", "dermal nevus",
                            "recurrent nevus", "reed or spitz nevus"), "nevus")}


def derm7pt_class(diagnosis):
    """One of the five classes for one of the twenty diagnoses; an unknown one is an error, never a guess."""
    try:
        return DERM7PT[diagnosis.strip().lower()]
    except KeyError:
        raise UserError(f"Derm7pt: unknown diagnosis {diagnosis!r}") from None


def fetal_us(raw):
    """FETAL_PLANES_DB_data.csv, semicolons; Train 1 or 0 is the official flag, disjoint by patient."""
    raw, names = need_folder(raw), TABLE["FETAL_US"].classnames
    path = find(raw, "FETAL_PLANES_DB_data.csv", kind="file")
    index = by_stem(find_images(find(raw, "Images", kind="folder")))
    images = []
    for row in read_table(path):
        plane = column(row, "Plane", path)
        name = "Other planes" if plane.lower() in ("other", "other planes") else plane.capitalize()
        if name not in names:
            raise UserError(f"{path}: unknown plane {plane!r}")
        stem = column(row, "Image_name", path).removesuffix(".png")
        part = {"1": "train", "0": "test"}[column(row, "Train", path)]
        images.append(Image(look_up(index, stem, path), name, part, f"patient {column(row, 'Patient_num', path)}"))
    return Raw(images, names, "Patient_num")


ISIC_COLUMNS = ("MEL", "NV", "BCC", "AKIEC", "BKL", "DF", "VASC")


def isic(raw):
    """ISIC 2018 Task 3: one-hot tables. Challenge parts where all three are there, else the training part alone,
    split by lesion. The HAM10000 copy (HAM10000_metadata) is read too."""
    raw, names = need_folder(raw), TABLE["ISIC"].classnames
    if not find(raw, "ISIC2018_Task3_Training_GroundTruth.csv", kind="file", needed=False):
        return _ham10000(raw, names)
    tables = {part: find(raw, f"ISIC2018_Task3_{word}_GroundTruth.csv", kind="file", needed=False)
              for part, word in (("train", "Training"), ("val", "Validation"), ("test", "Test"))}
    official = all(tables.values())
    index = by_stem(find_images(raw))
    lesions = _lesions(find(raw, "ISIC2018_Task3_Training_LesionGroupings.csv", kind="file", needed=False))
    images = []
    for part, path in tables.items():
        if path is None or (part != "train" and not official):
            continue
        for row in read_table(path):
            stem = column(row, "image", path)
            marks = [c for c in ISIC_COLUMNS if float(column(row, c, path)) == 1]
            if len(marks) != 1:
                raise UserError(f"{path}: {stem} has {len(marks)} diagnoses; expected one")
            images.append(Image(look_up(index, stem, path), names[ISIC_COLUMNS.index(marks[0])],
                                part if official else "", lesions.get(stem, "")))
    return Raw(images, names, "lesion_id" if lesions else "")


def _lesions(path):
    return {column(r, "image", path): column(r, "lesion_id", path) for r in read_table(path)} if path else {}


def _ham10000(raw, names):
    path = find(raw, "HAM10000_metadata.csv", "HAM10000_metadata", kind="file")
    index = by_stem(find_images(raw))
    images = [Image(look_up(index, column(row, "image_id", path), path),
                    names[ISIC_COLUMNS.index(column(row, "dx", path).upper())], "", column(row, "lesion_id", path))
              for row in read_table(path)]
    return Raw(images, names, "lesion_id")


ODIR_WORDS = (  # pattern of a keyword -> class; the first that fits counts
    (r"normal fundus", "normal"), (r"diabetic retinopathy|proliferative retinopathy", "diabetes"),
    (r"glaucoma", "glaucoma"), (r"cataract", "cataract"),
    (r"age-related macular degeneration", "age related macular degeneration"),
    (r"hypertensive retinopathy", "hypertension"), (r"myopi", "pathological myopia"))
ODIR_BAD = r"no fundus image|lens dust|anterior segment|low (image )?quality"


def odir_classes(keywords):
    """The set of classes that the keywords of one eye name; None for an eye whose picture is no good."""
    words = [w.strip().lower() for w in re.split("[，,]", keywords) if w.strip()]
    if not words or any(re.search(ODIR_BAD, w) for w in words):
        return None
    other = "other diseases or abnormalities"
    return {next((name for pattern, name in ODIR_WORDS if re.search(pattern, w)), other) for w in words}


def odir(raw, wanted="ODIR"):
    """full_df.csv, one row an eye: kept if its own keywords name exactly one class; both eyes of a patient together."""
    raw, names = need_folder(raw), TABLE[wanted].classnames
    path = find(raw, "full_df.csv", kind="file")
    shrunk = find(raw, "preprocessed_images", kind="folder", needed=False)
    index = by_stem(_once(find_images(shrunk or find(raw, "Training Images", kind="folder"))))
    images, left_out = [], Counter()
    for row in read_table(path):
        file = column(row, "filename", path)
        side = "Left" if "_left" in file else "Right"
        found = odir_classes(column(row, f"{side}-Diagnostic Keywords", path))
        if found is None or len(found) > 1:
            left_out["bad picture" if found is None else "several groups"] += 1
        elif (name := found.pop()) in names:
            images.append(Image(look_up(index, file.rsplit(".", 1)[0], path), name, "",
                                f"patient {column(row, 'ID', path)}"))
    remarks = [f"left out: {n} eyes, {why}" for why, n in sorted(left_out.items())]
    return Raw(images, names, "patient ID (both eyes together)", remarks=remarks)


def odir2(raw):
    return odir(raw, "ODIR2")
