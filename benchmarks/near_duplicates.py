#!/usr/bin/env python
"""Near duplicates of a folder of images: how many, how long it takes, and how many planted copies are found.

    python -m cilmp.benchmarks.near_duplicates FOLDER [--copies 200] [--look DIR]

For each alteration, --copies images are altered, saved as JPEG (quality 90) in a temporary folder, and judged together
with all the others; the share paired with its original is the recall. With --look, sheets of 50 pairs, drawn at random
from those of the folder itself, are written to DIR: whether they are true is for eyes to say.
"""

import argparse
import os
import random
import tempfile
import time
from collections import Counter
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]

from PIL import Image, ImageDraw, ImageEnhance, ImageOps  # noqa: E402

from cilmp.datasets import duplicates  # noqa: E402
from cilmp.datasets.scan import scan  # noqa: E402
from dassl.utils import read_image  # noqa: E402
from dassl.utils.errors import UserError, run_main  # noqa: E402

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".dcm", ".webp"}
QUALITY = 90
TILE = 230  # pixels a side on a sheet
SHEET = 10  # pairs


def cut(left, top, right, bottom):
    def apply(image):
        w, h = image.size
        return image.crop((round(w * left), round(h * top), round(w * (1 - right)), round(h * (1 - bottom))))

    return apply


ALTERATIONS = {
    "JPEG quality 60": lambda image: image,
    "resized to 0.7": lambda image: image.resize((round(image.width * 0.7), round(image.height * 0.7))),
    "cropped by 5 % in all": cut(0.025, 0.025, 0.025, 0.025),
    "cropped by 5 % a side": cut(0.05, 0.05, 0.05, 0.05),
    "cropped by 5 % at a corner": cut(0.05, 0.05, 0, 0),
    "cropped by 5 % on the left": cut(0.05, 0, 0, 0),
    "brightness + 10 %": lambda image: ImageEnhance.Brightness(image).enhance(1.1),
    "brightness - 10 %": lambda image: ImageEnhance.Brightness(image).enhance(0.9),
    "mirrored": ImageOps.mirror,
    "turned by 2 degrees": lambda image: image.rotate(2, Image.Resampling.BICUBIC),
    "turned by 180 degrees": lambda image: image.rotate(180),
}


def parser():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("folder", type=Path)
    p.add_argument("--copies", type=int, default=200, help="planted for each alteration")
    p.add_argument("--look", type=Path, metavar="DIR", help="where sheets of found pairs are written")
    p.add_argument("--seed", type=int, default=1)
    return p


def judged(files):
    """{file: Seen} of the readable, the near pairs, seconds of scanning, and those of judging (wall, processor)."""
    start = time.perf_counter()
    seen = scan(files, label="scan", progress=False)
    seen = {file: s for file, s in seen.items() if not s.error}
    middle, busy = time.perf_counter(), time.process_time()
    pairs = duplicates.near_pairs(seen)
    return seen, pairs, middle - start, (time.perf_counter() - middle, time.process_time() - busy)


def planted(files, copies, folder, seed):
    """{alteration: [(original, copy)]}; each alteration takes a sample of its own."""
    found = {}
    for k, (name, alter) in enumerate(ALTERATIONS.items()):
        chosen = random.Random(f"{seed} {name}").sample(files, min(copies, len(files)))
        found[name] = [(file, str(folder / f"{k}_{i}.jpg")) for i, file in enumerate(chosen)]
        for file, copy in found[name]:
            alter(read_image(file)).save(copy, quality=60 if name == "JPEG quality 60" else QUALITY)
    return found


def sheets(pairs, folder, seed, most=50):
    """Sheets of SHEET pairs each, side by side, with their number and agreement."""
    folder.mkdir(parents=True, exist_ok=True)
    chosen = sorted(random.Random(seed).sample(pairs, min(most, len(pairs))))
    for start in range(0, len(chosen), SHEET):
        sheet = Image.new("RGB", (4 * TILE + 20, (SHEET + 1) // 2 * (TILE + 16)), "white")
        draw = ImageDraw.Draw(sheet)
        for k, (a, b, much) in enumerate(chosen[start:start + SHEET]):
            x, y = k % 2 * (2 * TILE + 16), k // 2 * (TILE + 16)
            draw.text((x, y), f"{start + k + 1}: {much} {Path(a).name} {Path(b).name}", fill="black")
            for n, file in enumerate((a, b)):
                sheet.paste(read_image(file).resize((TILE, TILE)), (x + n * (TILE + 2), y + 14))
        sheet.save(folder / f"pairs_{start // SHEET}.png")


def taken(seconds):
    return "{:.0f} s ({:.0f} s of processor)".format(*seconds)


def main(argv=None):
    args = parser().parse_args(argv)
    files = sorted(str(f) for f in args.folder.rglob("*") if f.suffix.lower() in SUFFIXES)
    if len(files) < 2:
        raise UserError(f"{args.folder} holds {len(files)} images; near duplicates need two")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["CILMP_CACHE"] = str(Path(folder) / "cache")  # every image is opened anew
        report(files, Path(folder), args)


def report(files, folder, args):
    seen, pairs, opening, judging = judged(files)
    sizes = Counter(duplicates.clusters(seen, pairs).values())
    print(f"{len(seen)} images: {len(pairs)} near pairs, {len(duplicates.exact_groups(seen))} groups of equal images, "
          f"largest cluster {max(sizes.values())}; scan {opening:.0f} s, pairs {taken(judging)}, "
          f"{os.cpu_count()} cores", flush=True)
    if args.look:
        sheets(pairs, args.look, args.seed)
    if not args.copies:
        return
    copies = planted(sorted(seen), args.copies, folder, args.seed)
    together, found, _, judging = judged([*seen, *(copy for rows in copies.values() for _, copy in rows)])
    speaker = {file: group[0] for group in duplicates.exact_groups(together) for file in group}
    paired = {frozenset(pair[:2]) for pair in found}
    print(f"{len(together)} images with the planted: pairs {taken(judging)}")
    print("| alteration | planted | found | recall |\n| --- | --- | --- | --- |")
    for name, rows in copies.items():
        hits = sum(frozenset(speaker.get(file, file) for file in row) in paired for row in rows)
        print(f"| {name} | {len(rows)} | {hits} | {100 * hits / len(rows):.1f} % |")


if __name__ == "__main__":
    run_main(main)
