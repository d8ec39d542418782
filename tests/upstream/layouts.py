"""A few drawn images in the layout of every reader of a checkout: folders and names are read off its source."""

import json
import re

NAMES = {"split_BUSI.json": ("benign tumor", "malignant tumor", "normal scan"),
         "busi.json": ("normal", "malignant", "benign")}  # fmt: skip
ANY = ("red apple", "green pear", "blue plum", "grey stone")
COUNTS = {"train": 3, "val": 2, "test": 3}


def draw(path, label, i):
    import numpy as np
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(10 * label + i).integers(0, 80, (50, 60, 3))
    Image.fromarray((noise + 40 * (label % 4)).astype("uint8")).save(path)


def lay_out(checkout, data):
    """Write data for each file of checkout/datasets whose layout is known; the others stay without."""
    for file in sorted((checkout / "datasets").glob("*.py")):
        text = file.read_text(encoding="utf-8")
        folder = re.search(r'^    dataset_dir = ["\'](.+?)["\']', text, re.M)
        if folder is None:
            continue
        folder = data / folder[1]
        images = re.search(r'self\.image_dir = os\.path\.join\(\s*self\.dataset_dir(?:,\s*"(.+?)")?\)', text)
        images = folder / (images[1] or "") if images else folder
        if split := re.search(r'split_path = os\.path\.join\(\s*self\.dataset_dir,\s*"(.+?)"', text):
            _a_split(folder / split[1], images)
        elif "variants.txt" in text:
            _aircraft(folder, images)
        elif "classnames.txt" in text:
            inner = re.search(r'^        image_dir = "(.+?)"', text, re.M)
            _imagenet(folder, folder / inner[1] if inner else images, text)
    return data


def _a_split(path, images):
    names, split = NAMES.get(path.name, ANY), {part: [] for part in COUNTS}
    for label, name in enumerate(names):
        for part, count in COUNTS.items():
            for i in range(count):
                relative = f"{name.replace(' ', '_')}/{part}{i}.png"
                draw(images / relative, label, i)
                split[part].append([relative, label, name])
    path.write_text(json.dumps(split))


def _aircraft(folder, images):
    for label in range(len(ANY)):
        draw(images / f"{label}.jpg", label, 0)
    (folder / "variants.txt").write_text("\n".join(ANY) + "\n")
    for part in COUNTS:
        lines = [f"{label} {name}" for label, name in enumerate(ANY)]
        (folder / f"images_variant_{part}.txt").write_text("\n".join(lines) + "\n")


def _imagenet(folder, images, text):
    """Four synsets of images; version 2 has a numbered folder for each of a thousand."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "classnames.txt").write_text("".join(f"n{i:08d} thing {i}\n" for i in range(1000)))
    many = range(1000) if "range(1000)" in text else ()
    for i in many:
        draw(images / str(i) / "0.png", i, 0)
    for label in () if many else range(4):
        for part in ("train", "val") if "preprocessed" in text else ("",):
            for i in range(2):
                draw(images / part / f"n{label:08d}" / f"{i}.png", label, i)


def language_rows(checkout, data):
    """Random rows where official CILMP looks for a language model's, for every split that is laid out."""
    import torch

    if not any("llm_representations" in f.read_text(encoding="utf-8") for f in (checkout / "trainers").glob("*.py")):
        return
    for path in data.glob("*/*.json"):
        folder = checkout / "llm_representations" / path.parent.name
        folder.mkdir(parents=True, exist_ok=True)
        for name in {item[2] for item in json.loads(path.read_text())["train"]}:
            rows = torch.randn(9, 4096, generator=torch.Generator().manual_seed(len(name)))
            torch.save(rows, folder / f"{name}.pth")
