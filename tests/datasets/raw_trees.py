"""Small raw trees of the public sets in their true layout: names, columns, nesting. One function a set."""

import csv
import json
import zlib

import numpy as np
from PIL import Image


def picture(path, seed, size=(24, 20)):
    """A random picture; no two seeds look alike."""
    path.parent.mkdir(parents=True, exist_ok=True)
    small = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    image = Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)
    image.save(path, "JPEG" if path.suffix.lower() in (".jpg", ".jpeg") else None)


def pictures(folder, names, start=0):
    for name in names:
        picture(folder / name, hash_of(f"{folder.name}/{name}") + start)


def hash_of(text):
    return zlib.crc32(text.encode())


def table(path, head, rows, delimiter=",", bom=False):
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="utf-8-sig" if bom else "utf-8", newline="") as f:
        csv.writer(f, delimiter=delimiter).writerows([head, *rows])


def ADAM(raw):
    pictures(raw / "Training400" / "AMD", [f"A{i:04d}.jpg" for i in range(1, 6)])
    pictures(raw / "Training400" / "Non-AMD", [f"N{i:04d}.jpg" for i in range(1, 11)])
    pictures(raw / "Disc_Masks" / "AMD", ["A0001.png"])


def APTOS(raw):
    names = [f"{i:012x}" for i in range(50)]
    table(raw / "train.csv", ["id_code", "diagnosis"], [(n, i % 5) for i, n in enumerate(names)], bom=True)
    table(raw / "test.csv", ["id_code"], [("ffff",)])
    pictures(raw / "train_images", [f"{n}.png" for n in names])
    pictures(raw / "test_images", ["ffff.png"])


def APTOS_resplit(raw):
    for part, file, folder in (("a", "train_1.csv", "train_images"), ("b", "valid.csv", "val_images"),
                               ("c", "test.csv", "test_images")):
        names = [f"{part}{i}" for i in range(5)]
        table(raw / file, ["id_code", "diagnosis"], [(n, i) for i, n in enumerate(names)])
        pictures(raw / folder / folder, [f"{n}.png" for n in names])


def medmnist(raw, flag, classes, channels=3, size=28, stored=False):
    raw.mkdir(parents=True, exist_ok=True)
    rng, arrays = np.random.default_rng(1), {}
    for part, n in (("train", 6), ("val", 2), ("test", 3)):
        shape = (n * classes, size, size) + ((3,) if channels == 3 else ())
        arrays[f"{part}_images"] = rng.integers(0, 256, shape, dtype=np.uint8)
        arrays[f"{part}_labels"] = np.tile(np.arange(classes, dtype=np.uint8), n)[:, None]
    path = raw / (f"{flag}.npz" if size == 28 else f"{flag}_{size}.npz")
    (np.savez if stored else np.savez_compressed)(path, **arrays)
    return path


def BUSI(raw):
    for name, n in (("benign", 20), ("malignant", 10), ("normal", 8)):
        folder = raw / "Dataset_BUSI_with_GT" / name
        pictures(folder, [f"{name} ({i}).png" for i in range(1, n + 1)])
        pictures(folder, [f"{name} ({i})_mask.png" for i in range(1, n + 1)])
        pictures(folder, [f"{name} (1)_mask_1.png"])


def CHAOYANG(raw):
    for part, cases in (("train", range(10, 22)), ("test", range(50, 54))):
        rows = []
        for case in cases:
            for label in range(4):
                name = f"{part}/{case}-IMG00{label}x001-{label}.JPG"
                rows.append({"name": name, "label": label})
                picture(raw / name, hash_of(name))
        (raw / f"{part}.json").write_text(json.dumps(rows))


def CPN_X_RAY(raw):
    for folder in ("COVID", "NORMAL", "PNEUMONIA"):
        pictures(raw / "Chest X-ray" / folder, [f"{folder}_{i}.png" for i in range(12)])


def Derm7pt(raw):
    from cilmp.datasets.prepare.by_table import DERM7PT

    raw = raw / "release_v0"
    diagnoses = [d for d in DERM7PT for _ in range(3)]
    rows = [(i, d, f"{'NeL' if i % 2 else 'nel'}{i:03d}.jpg", f"clinic{i}.jpg") for i, d in enumerate(diagnoses)]
    table(raw / "meta" / "meta.csv", ["case_num", "diagnosis", "derm", "clinic"],
          [(n, f"{d} ", f"A/{f}", f"A/{c}") for n, d, f, c in rows])
    pictures(raw / "images" / "A", [f.replace("nel", "NEL") for *_, f, _ in rows])
    for part, k in (("train", 0), ("valid", 1), ("test", 2)):
        table(raw / "meta" / f"{part}_indexes.csv", ["indexes"], [(i,) for i in range(k, len(rows), 3)])


def FETAL_US(raw):
    raw, rows = raw / "FETAL_PLANES_ZENODO", []
    planes = ("Fetal brain", "Fetal femur", "Fetal abdomen", "Fetal thorax", "Maternal cervix", "Other")
    for patient in range(24):
        for k, plane in enumerate(planes):
            name = f"Patient{patient:05d}_Plane{k + 1}_1_of_6"
            rows.append((name, patient, plane, "Not A Brain", "Op. 1", "Voluson E6", int(patient < 16)))
            picture(raw / "Images" / f"{name}.png", hash_of(name))
    table(raw / "FETAL_PLANES_DB_data.csv", ["Image_name", "Patient_num", "Plane", "Brain_plane", "Operator",
                                             "US_Machine", "Train "], rows, delimiter=";")


def ISIC(raw, parts=("Training",)):
    columns = ["MEL", "NV", "BCC", "AKIEC", "BKL", "DF", "VASC"]
    for start, part in enumerate(parts):
        names = [f"ISIC_{start}{i:06d}" for i in range(70)]
        folder = raw / f"ISIC2018_Task3_{part}_Input"
        pictures(folder, [f"{n}.jpg" for n in names])
        (folder / "LICENSE.txt").write_text("CC BY-NC")
        table(raw / f"ISIC2018_Task3_{part}_GroundTruth" / f"ISIC2018_Task3_{part}_GroundTruth.csv",
              ["image", *columns], [(n, *(f"{float(i % 7 == k)}" for k in range(7))) for i, n in enumerate(names)])
        if part == "Training":
            table(raw / "ISIC2018_Task3_Training_LesionGroupings.csv",
                  ["image", "lesion_id", "diagnosis_confirm_type"],
                  [(n, f"HAM_{i % 7}_{i // 14}", "histopathology") for i, n in enumerate(names)])


def KVASIR(raw):
    for name in ("dyed-lifted-polyps", "dyed-resection-margins", "esophagitis", "normal-cecum", "normal-pylorus",
                 "normal-z-line", "polyps", "ulcerative-colitis"):
        pictures(raw / "kvasir-dataset-v2" / name / name, [f"{name[:3]}-{i}.jpg" for i in range(10)])


def ODIR(raw):
    raw, rows = raw / "ODIR-5K" / "ODIR-5K", []
    words = ("normal fundus", "moderate non proliferative retinopathy", "glaucoma", "cataract",
             "dry age-related macular degeneration", "hypertensive retinopathy", "pathological myopia",
             "epiretinal membrane")
    for patient in range(48):
        left = words[patient % 8]
        right = {0: "normal fundus", 1: "normal fundus，lens dust", 2: "glaucoma，cataract"}[patient % 3]
        for side in ("left", "right"):
            file = f"{patient}_{side}.jpg"
            picture(raw / "preprocessed_images" / file, hash_of(file))
            picture(raw / "Training Images" / file, hash_of(file))
            rows.append((patient, 50, "Male", f"{patient}_left.jpg", f"{patient}_right.jpg", left, right, file))
    table(raw.parent / "full_df.csv", ["ID", "Patient Age", "Patient Sex", "Left-Fundus", "Right-Fundus",
                                       "Left-Diagnostic Keywords", "Right-Diagnostic Keywords", "filename"], rows)


def PNEUMONIA(raw):
    for tree in (raw / "chest_xray", raw / "chest_xray" / "chest_xray", raw / "chest_xray" / "__MACOSX"):
        for part, n in (("train", 20), ("val", 2), ("test", 5)):
            normal = [f"{word}IM-{i:04d}-0001.jpeg" for word in ("", "NORMAL2-") for i in range(n)]
            ill = [f"person{i}_{kind}_{2 * i + (kind == 'virus')}.jpeg" for i in range(n)
                   for kind in ("bacteria", "virus")]
            prefix = {"train": 0, "val": 1000, "test": 0}[part]
            pictures(tree / part / "NORMAL", [f.replace("IM-0", f"IM-{prefix // 1000}") for f in normal], prefix + n)
            pictures(tree / part / "PNEUMONIA", [f.replace("person", f"person{prefix or ''}") for f in ill], prefix + n)


def BTMRI(raw):
    for part, n in (("Training", 10), ("Testing", 4)):
        for name in ("glioma", "meningioma", "notumor", "pituitary"):
            pictures(raw / part / name, [f"{part[:2]}-{name[:2]}_{i:04d}.jpg" for i in range(n)])


def CHMNIST(raw):
    for name in ("01_TUMOR", "02_STROMA", "03_COMPLEX", "04_LYMPHO", "05_DEBRIS", "06_MUCOSA", "07_ADIPOSE",
                 "08_EMPTY"):
        pictures(raw / "Kather_texture_2016_image_tiles_5000" / name,
                 [f"{i}_CRC-Prim-HE-{i % 10 + 1:02d}_{i:03d}.tif_Row_1_Col_{i}.tif" for i in range(20)])


def COVID_19(raw):
    for name in ("COVID", "Lung_Opacity", "Normal", "Viral Pneumonia"):
        folder = raw / "COVID-19_Radiography_Dataset" / name
        pictures(folder / "images", [f"{name}-{i}.png" for i in range(10)])
        pictures(folder / "masks", [f"{name}-{i}.png" for i in range(10)])


def CTKidney(raw):
    outer = raw / "CT-KIDNEY-DATASET-Normal-Cyst-Tumor-Stone" / "CT-KIDNEY-DATASET-Normal-Cyst-Tumor-Stone"
    for name in ("Cyst", "Normal", "Stone", "Tumor"):
        pictures(outer / name, [f"{name}- ({i}).jpg" for i in range(1, 11)])


def KneeXray(raw):
    for k, part in enumerate(("train", "val", "test", "auto_test")):
        for grade in range(5):
            pictures(raw / part / str(grade), [f"{9000000 + 1000 * k + 10 * grade + i}{s}.png"
                                               for i in range(3) for s in "LR"])


def LungColon(raw):
    for organ, names in (("lung", ("lung_aca", "lung_n", "lung_scc")), ("colon", ("colon_aca", "colon_n"))):
        for name in names:
            pictures(raw / "lung_colon_image_set" / f"{organ}_image_sets" / name,
                     [f"{name.replace('_', '')}{i}.jpeg" for i in range(10)])


def RETINA(raw):
    for name in ("cataract", "diabetic_retinopathy", "glaucoma", "normal"):
        suffix = "jpeg" if name == "diabetic_retinopathy" else "jpg"
        pictures(raw / "dataset" / name, [f"{i}_{side}.{suffix}" for i in range(10) for side in ("left", "right")]
                 + [f"_0_{name[:3]}{i}.jpg" for i in range(5)])


RAW = {name: make for name, make in globals().items() if name[0].isupper() and callable(make) and name != "Image"}
RAW["PNEUMONIA2"] = RAW["PNEUMONIA3"] = RAW.pop("PNEUMONIA")
RAW["ODIR2"] = ODIR
