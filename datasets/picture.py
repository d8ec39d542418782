"""One page that shows a data set: a few images of every class, and how many there are."""

import random
import textwrap
from pathlib import Path

from cilmp.datasets.split_file import PARTS

SHOWN = 6  # images a class
MOST = 24  # classes on the page
LETTERS = 11  # letters an inch of the heading


def draw(split, base, path, title, note=""):
    """Write the page as PNG: a row of images for each class (if `base` is a folder), bars of counts beside them."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    names = split.classnames[:MOST]
    columns = SHOWN if base else 0
    figure, axes = plt.subplots(len(names), columns + 1, figsize=(1.35 * columns + 4.2, 1.35 * len(names) + 0.9),
                                squeeze=False, gridspec_kw={"width_ratios": [1] * columns + [2.6]})
    most = max(sum(n == name for _, _, n in split.train) for name in names)
    for row, name in zip(axes, names):
        for axis, file in zip(row, _samples(split, name, columns)):
            axis.imshow(_small(Path(base, file)))
        for axis in row[:columns]:
            axis.axis("off")
        _bars(row[-1], name, split, most)
    if (more := len(split.classnames) - len(names)) > 0:
        note = f"{note} ({more} further classes are not shown)".strip()
    width = round(figure.get_figwidth() * LETTERS)
    lines = [line for text in (title, note) for line in textwrap.wrap(text, width)]
    figure.suptitle("\n".join(lines), fontsize=11, parse_math=False)
    figure.tight_layout()
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, bbox_inches="tight", pad_inches=0.1)  # tight: what is written is never cut
    plt.close(figure)


def _samples(split, name, count):
    files = [f for rows in split.parts().values() for f, _, n in rows if n == name]
    return random.Random(1).sample(files, min(count, len(files)))


def _small(path):
    from PIL import Image

    from dassl.utils import read_image
    from dassl.utils.errors import UserError

    try:
        image = read_image(str(path))
    except (UserError, OSError):
        return Image.new("RGB", (16, 16), "red")
    image.thumbnail((160, 160))
    return image


def _bars(axis, name, split, most):
    counts = [sum(n == name for _, _, n in split.parts()[part]) for part in PARTS]
    axis.barh(PARTS[::-1], counts[::-1], color=("#c44", "#999", "#468"), height=0.7)
    for y, count in enumerate(counts[::-1]):
        axis.text(count, y, f" {count}", va="center", fontsize=7)
    axis.set_xlim(0, 1.2 * most)
    axis.set_title("\n".join(textwrap.wrap(name, 48)), fontsize=8, loc="left", parse_math=False)
    axis.tick_params(labelsize=7, length=0)
    axis.set_xticks([])
    for side in ("top", "right", "bottom"):
        axis.spines[side].set_visible(False)
