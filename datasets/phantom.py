"""phantom: drawn images of twelve findings in five modalities - a demonstration, never a clinical result.

`draw` makes one image; `ensure(root)` writes the whole set once, as a folder with a CoOp-style split.
Findings show more or less strongly, and weaker signs of another finding of the same modality may be there.
Two distributions of nuisance exist. "pretrain" is clean: what the demo backbone has seen. "test" is the
data set: weaker findings, noise, blur, another colour balance, litter, and signs that lean to one side
whatever the class, as another device or projection makes them. So zero-shot is off, and a few labelled
images can mend it.
"""

import json
import os
import shutil
import tempfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from cilmp.datasets.phantom_drawing import DRAWINGS, SIZE, blob, line, paint
from dassl.utils.errors import UserError

MODALITIES = {  # finding -> modality phrase; sorted: the first six are base classes, the last six new
    "atelectasis": "chest X-ray",
    "breast carcinoma": "breast ultrasound image",
    "breast cyst": "breast ultrasound image",
    "cardiomegaly": "chest X-ray",
    "diabetic retinopathy": "fundus photograph",
    "glaucoma": "fundus photograph",
    "malaria": "blood smear micrograph",
    "melanocytic nevus": "dermoscopy image",
    "melanoma": "dermoscopy image",
    "pleural effusion": "chest X-ray",
    "pneumonia": "chest X-ray",
    "sickle cell anemia": "blood smear micrograph",
}
CLASSES = tuple(MODALITIES)
COUNTS = {"train": 32, "val": 8, "test": 40}  # images a class
SEEDS = {"train": 11, "val": 12, "test": 13}  # fixed before anything was tuned
NOTE = "Drawn images, not photographs: numbers on them show that the software works, nothing about medicine."


@dataclass(frozen=True)
class Nuisance:
    """Ranges are (low, high) of a uniform draw; levels are in units of full scale (0..1)."""

    primary: tuple  # strength of the finding that names the image
    other: tuple  # strength of the modality's other findings
    lean: float  # added to the strength of the findings in LEANING, whatever the image's class
    jitter: float  # spread of each visible sign about its strength
    noise: tuple
    blur: tuple  # Gaussian radius, pixels
    gain: tuple
    gamma: tuple
    cast: tuple  # mean shift of red, green, blue
    cast_spread: float
    litter: float  # mean number of hairs, wires, marks
    shift: float  # spread of the position, in half image widths


NUISANCES = {
    "pretrain": Nuisance(primary=(0.55, 1.0), other=(0.0, 0.35), lean=0.0, jitter=0.06, noise=(0.0, 0.04),
                         blur=(0.0, 0.5), gain=(0.9, 1.1), gamma=(0.9, 1.1), cast=(0.0, 0.0, 0.0),
                         cast_spread=0.02, litter=0.3, shift=0.04),
    "test": Nuisance(primary=(0.45, 0.9), other=(0.0, 0.4), lean=0.25, jitter=0.10, noise=(0.02, 0.06),
                     blur=(0.3, 0.9), gain=(0.75, 1.1), gamma=(0.7, 1.2), cast=(0.11, 0.02, -0.11),
                     cast_spread=0.02, litter=1.0, shift=0.08),
}
LEANING = ("cardiomegaly", "breast carcinoma", "diabetic retinopathy", "melanoma", "pneumonia",
           "sickle cell anemia")


def draw(classname, rng, nuisance="test"):
    """One image, uint8 (64, 64, 3), of a finding in CLASSES, drawn from the numpy Generator `rng`."""
    return draw_described(classname, rng, nuisance)[0]


def draw_described(classname, rng, nuisance="test"):
    """(image, words): as `draw`, with the words that describe the signs in it."""
    n, modality = NUISANCES[nuisance], MODALITIES[classname]
    strength = {}
    for finding in (c for c in CLASSES if MODALITIES[c] == modality):
        low, high = n.primary if finding == classname else n.other
        strength[finding] = np.clip(rng.uniform(low, high) + n.lean * (finding in LEANING), 0, 1)
    picture, words = DRAWINGS[modality](strength, lambda s: np.clip(s + rng.normal(0, n.jitter), 0, 1), rng)
    return _photograph(picture, n, rng), words


def _photograph(picture, n, rng):
    """The picture as this device would record it: litter, position, blur, light, noise; uint8."""
    picture = np.array(picture)
    for _ in range(rng.poisson(n.litter)):
        colour = rng.uniform(0, 1) * np.ones(3)
        x, y, angle = *rng.uniform(-1, 1, 2), rng.uniform(0, 6.28)
        if rng.random() < 0.6:  # a hair, a wire
            paint(picture, 0.8 * line(x, y, x + np.cos(angle), y + np.sin(angle), 0.025), colour)
        else:  # a mark, a reflection
            paint(picture, 0.7 * blob(x, y, *rng.uniform(0.04, 0.12, 2), angle, edge=0.4), colour)
    dy, dx = np.rint(np.clip(rng.normal(0, n.shift, 2), -0.25, 0.25) * SIZE / 2).astype(int)
    picture = np.roll(np.pad(picture, ((8, 8), (8, 8), (0, 0)), mode="edge"), (dy, dx), (0, 1))[8:-8, 8:-8]
    picture = np.clip(picture, 0, 1) ** rng.uniform(*n.gamma) * rng.uniform(*n.gain)
    picture = picture + np.asarray(n.cast) + rng.normal(0, n.cast_spread, 3)
    image = Image.fromarray((np.clip(picture, 0, 1) * 255).round().astype(np.uint8))
    image = image.filter(ImageFilter.GaussianBlur(rng.uniform(*n.blur)))
    noisy = np.asarray(image) / 255 + rng.normal(0, rng.uniform(*n.noise), (SIZE, SIZE, 3))
    return (np.clip(noisy, 0, 1) * 255).round().astype(np.uint8)


def generator(seed, classname, index):
    """The generator of one image: it depends on nothing but these three."""
    return np.random.default_rng([seed, zlib.crc32(classname.encode()), index])


def ensure(root):
    """The folder of the drawn data set under `root`, written there first if it is not: returns its path.

    Layout: images/<class>/<split>_<index>.png, split.json (lists of [path, label, class name]), dataset.json.
    The folder appears whole or not at all: it is drawn under another name beside `root` and renamed.
    """
    root = Path(root)
    if (root / "split.json").is_file():
        return root
    if root.exists() and any(root.iterdir()):
        raise UserError(f"{root} holds something else than phantom (it has no split.json): remove or rename it")
    root.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{root.name}.", dir=root.parent))
    try:
        _write(draft)
        os.chmod(draft, 0o755)
        os.rename(draft, root)
    except OSError:
        if not (root / "split.json").is_file():  # else another process was faster, and its files are the same
            raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return root


def _write(folder):
    """Draw every image of every partition into a folder, then the two JSON files."""
    split = {part: [] for part in COUNTS}
    for label, name in enumerate(CLASSES):
        subfolder = Path("images") / name.replace(" ", "_")
        (folder / subfolder).mkdir(parents=True)
        for part, count in COUNTS.items():
            for index in range(count):
                path = subfolder / f"{part}_{index:03d}.png"
                Image.fromarray(draw(name, generator(SEEDS[part], name, index))).save(folder / path)
                split[part].append([path.as_posix(), label, name])
    facts = {"name": "phantom", "note": NOTE, "modalities": MODALITIES, "counts": COUNTS, "seeds": SEEDS}
    for name, content in (("dataset.json", facts), ("split.json", split)):
        (folder / name).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
