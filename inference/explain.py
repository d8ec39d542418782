"""Why an image is answered as it is: heat maps, LLM rows, words, similar images; as objects, pictures, pages."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from cilmp.experiments.formats import grid, md
from dassl.utils.errors import UserError, unknown_name
from dassl.utils.io import atomic_folder, write_json, write_text
from dassl.utils.paths import slug

from . import explain_maps as maps
from . import explain_rows as rows

SMALLEST = 384  # pixels: side of a picture; a smaller image is enlarged by a whole number
STRONGEST = 0.65  # share of the heat's colour where it is 1
NEAREST = 5
NO_MEDICINE = "Research software, no medical device. A map shows what moved this model, not what a finding is."


@dataclass
class OfClass:
    """What speaks for one class.

    heat: (H, W) float32, 0 to 1. check: {"deletion", "random"}: the class's mean probability while the image is taken
    away by the map, and in random order; the map says something where the first is lower. rows, said, words: see
    `explain_rows`.
    """

    heat: np.ndarray
    check: dict
    rows: list = field(default_factory=list)
    said: dict = field(default_factory=dict)
    words: list = field(default_factory=list)


@dataclass
class Explanation:
    """Why an image is answered as it is.

    image: what the model saw, 8-bit RGB. probabilities: {class: p}. classes: {class: OfClass} that were asked about.
    nearest: [(file, cosine)], None where nobody said what to look among. method, run: whose answer it is. source: file
    of the image, "" where it was none.
    """

    image: Image.Image
    probabilities: dict
    classes: dict
    nearest: list
    method: str
    run: str
    source: str = ""

    @property
    def predicted(self):
        return max(self.probabilities, key=self.probabilities.get)

    def picture(self, classname):
        """The image under a class's heat, 8-bit RGB, at least SMALLEST pixels wide."""
        from matplotlib import colormaps

        heat = self.classes[classname].heat[..., None]
        seen = np.asarray(self.image, np.float32) / 255
        colour = colormaps["inferno"](heat[..., 0])[..., :3]
        mixed = seen * (1 - STRONGEST * heat) + colour * STRONGEST * heat
        return _large(Image.fromarray((mixed * 255).round().astype(np.uint8)))

    def record(self):
        """All but pictures, as plain data."""
        pictures = {name: self._file(name) for name in self.classes}
        return {
            "run": self.run, "method": self.method, "image": self.source, "predicted": self.predicted,
            "probabilities": self.probabilities, "nearest": self.nearest, "note": NO_MEDICINE,
            "classes": {name: {"picture": pictures[name], "check": c.check, "said": c.said, "words": c.words,
                               "rows": c.rows} for name, c in self.classes.items()},
        }  # fmt: skip

    def _file(self, name):
        return f"heat-{list(self.probabilities).index(name)}-{slug(name)[:60]}.png"

    def save(self, folder):
        """Write pictures, explanation.json and explanation.md into a new folder, whole or not at all."""
        with atomic_folder(folder) as place:
            _large(self.image).save(place / "seen.png")
            for name in self.classes:
                self.picture(name).save(place / self._file(name))
            write_json(self.record(), place / "explanation.json")
            write_text(as_text(self.record()), place / "explanation.md")
        return Path(folder).expanduser().absolute()


def explain(model, image, classes=None, among=()):
    """The Explanation of one image.

    Args:
        model: Model. image: path, PIL image, array or tensor, as `Model.predict` takes it.
        classes: names to explain; None: the predicted one.
        among: paths of training images, to find the nearest; or TrainingImages, read once for many calls.

    Raises:
        UserError: an unknown class, an unreadable image, an answer that is not a function of the image.
    """
    for name in classes or ():
        if name not in model.classes:
            raise unknown_name("class", name, model.classes)
    maps.check(model)
    batch = next(model.read(image))
    if len(batch) != 1:
        raise UserError(f"{len(batch)} images: give one")
    x = batch[0].to(model.device)
    with torch.no_grad():
        p = model.logits(batch)[0].double().softmax(-1).tolist()
    probabilities = dict(zip(model.classes, p))
    asked = list(dict.fromkeys(classes or [max(probabilities, key=probabilities.get)]))
    return Explanation(
        seen(model, batch[0]), probabilities, of_classes(model, x, asked), nearest(model, batch, among),
        model.method, str(model.folder), str(image) if isinstance(image, (str, Path)) else "",
    )  # fmt: skip


def of_classes(model, x, names):
    """{name: OfClass} of a normalised image (3, H, H)."""
    numbers = [model.classes.index(name) for name in names]
    found = {}
    for name, c, heat in zip(names, numbers, maps.heat_maps(model, x, numbers)):
        check = {"deletion": maps.deletion(model, x, heat, c), "random": maps.deletion_at_random(model, x, c)}
        found[name] = OfClass(heat.numpy(), check, rows.rows_leaned_on(model, x, c), rows.said(model, c),
                              rows.words(model, c))  # fmt: skip
    return found


def seen(model, x):
    """The image that the model saw, of its normalised tensor (3, H, W)."""
    given = model.trainer.cfg.INPUT
    if not given.NO_NORMALIZE:
        mean, std = (torch.tensor(list(v))[:, None, None] for v in (given.PIXEL_MEAN, given.PIXEL_STD))
        x = x * std + mean
    return Image.fromarray((x.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy())


def nearest(model, batch, among):
    """[(file, cosine)] of the files nearest to an image (1, 3, H, H) by image features; None without files."""
    if not among:
        return None
    found = among if isinstance(among, TrainingImages) else TrainingImages.read(model, among)
    return found.nearest(model, batch)


@dataclass
class TrainingImages:
    """What to look among for images near to one: files, their unit features (N, d) under one model."""

    files: list
    features: torch.Tensor

    @classmethod
    @torch.no_grad()
    def read(cls, model, files):
        """Of paths; those that can't be read are left out.

        Raises:
            UserError: none can be read.
        """
        left = set()
        parts = [model.image_features(part).cpu() for part in model.read(files, on_bad=lambda at, _: left.add(at))]
        if not parts:
            raise UserError(f"none of the {len(files)} images to look among can be read")
        return cls([str(f) for at, f in enumerate(files) if at not in left], torch.cat(parts))

    @torch.no_grad()
    def nearest(self, model, batch):
        """[(file, cosine)] of the NEAREST, nearest first."""
        best = (self.features @ model.image_features(batch).cpu()[0]).topk(min(NEAREST, len(self.files)))
        return [(self.files[i], round(cosine, 4)) for cosine, i in zip(best.values.tolist(), best.indices.tolist())]


def _large(image):
    """Enlarged by a whole number, pixels kept, to SMALLEST at least."""
    times = -(-SMALLEST // min(image.size))
    return image.resize((image.width * times, image.height * times), Image.Resampling.NEAREST) if times > 1 else image


# ---- as text


def as_text(record):
    """explanation.md of a record."""
    shown = sorted(record["probabilities"].items(), key=lambda pair: -pair[1])
    image, method, run = (md(record[key] or f"An {key}") for key in ("image", "method", "run"))
    parts = [f"# {md(record['predicted'])}", f"{image}, by {method} ({run}). {record['note']}",
             _table(("class", "probability"), [(n, f"{p:.3f}") for n, p in shown]),
             "![what the model saw](seen.png)"]  # fmt: skip
    words = []
    for name, found in record["classes"].items():
        parts += [f"## {md(name)}", f"![{md(name)}]({found['picture']})", _judged(found["check"]),
                  *_said(found["said"]), *_rows(found["rows"])]  # fmt: skip
        parts += _words(found["words"]) if found["words"] != words else []  # the same for all, where it is shared
        words = found["words"]
    return "\n\n".join([*parts, "## Nearest training images", _nearest(record["nearest"])]) + "\n"


def _judged(check):
    verdict = "says something" if check["deletion"] < check["random"] else "says no more than chance: do not trust it"
    return (f"Taking the image away by this map leaves the class {check['deletion']:.3f} of probability on average, in "
            f"random order {check['random']:.3f}: the map {verdict}.")  # fmt: skip


def _said(said):
    if not said.get("answers"):
        return []
    lines = [f"> {md(line)}" for line in said["answers"][:3]]
    return ["The language model said" + (f", asked *{md(said['question'])}*" if said["question"] else "") + ":",
            "\n>\n".join(lines)]  # fmt: skip


def _words(words):
    if not words:
        return []
    cells = [(i + 1, ", ".join(f"{word} ({d:.2f})" for word, d in near)) for i, near in enumerate(words)]
    return ["Learned context, nearest words (distance); they seldom mean anything:", _table(("vector", "words"), cells)]


def _rows(found):
    if not found:
        return []
    best = sorted(found, key=lambda row: -abs(row["contribution"]))[:8]
    cells = [(r["row"], r["part"], f"{r['contribution']:+.2g}", f"{r['moved']:.3f}", f"{r['moved_by_image']:.3f}")
             for r in best]  # fmt: skip
    title = f"The {len(best)} of {len(found)} rows of the language model that the answer leaned on most:"
    return [title, _table(("row", "part", "adds to the log-odds", "moved", "by the image"), cells)]


def _nearest(found):
    if found is None:
        return "Not looked for: the run keeps no training images; name them with --among."
    return _table(("image", "cosine"), [(f, f"{cosine:.3f}") for f, cosine in found])


def _table(head, cells):
    return "\n".join(grid(head, [map(md, row) for row in cells]))
