"""Near duplicates: copies are found whatever was done to them, look-alikes are not. The eyes here are drawn as fundus
photographs are: one black surround, one disc, one shade, the optic disc at one place; only the vessels differ."""

import io
from dataclasses import asdict

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageOps

from cilmp.datasets.candidates import MOST, candidates
from cilmp.datasets.duplicates import alike_pairs, clusters, near_pairs
from cilmp.datasets.same_picture import Place, agreement
from cilmp.datasets.scan import grey, look, scan

SIDE = 240


def eye(seed):
    rng = np.random.default_rng(seed)
    image = Image.new("RGB", (SIDE, SIDE))
    draw = ImageDraw.Draw(image)
    for step in range(30):  # a shade, brighter towards one side
        edge = 6 + 3 * step
        draw.ellipse((edge, edge, SIDE - 6 - 2 * step, SIDE - 6 - 2 * step), fill=(110 + 3 * step, 50 + 2 * step, 20))
    draw.ellipse((160, 100, 190, 135), fill=(250, 220, 150))
    for _ in range(14):
        x, y, angle = 175.0, 117.0, rng.uniform(0, 2 * np.pi)
        way = [(x, y)]
        for _ in range(25):
            angle += rng.normal(0, 0.35)
            x, y = x + 7 * np.cos(angle), y + 7 * np.sin(angle)
            if np.hypot(x - SIDE / 2, y - SIDE / 2) > SIDE / 2 - 12:
                break
            way.append((x, y))
        draw.line(way, fill=(90, 30, 15), width=int(rng.integers(2, 5)))
    return image.filter(ImageFilter.GaussianBlur(1))


def jpeg(image, quality):
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")


def cropped(image, left, top, right, bottom):
    return image.crop((round(SIDE * left), round(SIDE * top), round(SIDE * (1 - right)), round(SIDE * (1 - bottom))))


ALTERED = {
    "JPEG 60": lambda image: jpeg(image, 60),
    "0.7": lambda image: image.resize((round(image.width * 0.7), round(image.height * 0.7))),
    "crop 5 % a side": lambda image: cropped(image, 0.05, 0.05, 0.05, 0.05),
    "crop 5 % in all": lambda image: cropped(image, 0.025, 0.025, 0.025, 0.025),
    "crop 5 % of one corner": lambda image: cropped(image, 0.05, 0.05, 0, 0),
    "crop 5 % of one side": lambda image: cropped(image, 0, 0, 0.05, 0),
    "brighter": lambda image: ImageEnhance.Brightness(image).enhance(1.1),
    "darker": lambda image: ImageEnhance.Brightness(image).enhance(0.9),
    "mirrored": ImageOps.mirror,
    "mirrored and cropped": lambda image: ImageOps.mirror(cropped(image, 0.05, 0, 0, 0)),
}


def seen(folder, images):
    """{file: Seen} of {name: PIL image}, by way of files."""
    for name, image in images.items():
        image.save(folder / name)
    return scan([folder / name for name in images], workers=1, progress=False)


def names(pairs):
    return {tuple(sorted(file.rsplit("/", 1)[-1] for file in pair[:2])) for pair in pairs}


def test_different_eyes_in_the_same_disc_are_no_copies(tmp_path):
    """4,217 fundus photographs gave 1,294 pairs, most of them of strangers, and chains of 104."""
    assert near_pairs(seen(tmp_path, {f"{i}.png": eye(i) for i in range(30)})) == []


@pytest.mark.parametrize("how", ALTERED)
def test_every_copy_is_found_and_nothing_else(tmp_path, how):
    images = {f"{i:02d}.png": eye(i) for i in range(8)}
    copies = {f"{i:02d}_copy.png": jpeg(ALTERED[how](images[f"{i:02d}.png"]), 90) for i in range(8)}
    found = near_pairs(seen(tmp_path, {**images, **copies}))
    assert names(found) == {(f"{i:02d}.png", f"{i:02d}_copy.png") for i in range(8)}


def test_pairs_are_the_same_every_time_and_come_in_the_files_order(tmp_path):
    images = {f"{i:02d}.png": jpeg(eye(i // 3), 60 + 2 * i) for i in range(12)}
    both = [near_pairs(seen(tmp_path, images)) for _ in range(2)]
    assert both[0] == both[1] and len(both[0]) == 12
    assert [pair[:2] for pair in both[0]] == sorted(pair[:2] for pair in both[0])
    assert all(0.75 <= much <= 1 for *_, much in both[0])


def test_many_copies_of_one_picture_hang_together_with_few_candidates(tmp_path):
    images = {f"{i:02d}.png": jpeg(eye(7), 50 + i) for i in range(40)}
    found = seen(tmp_path, images)
    assert len(candidates(np.stack([s.grey() for s in found.values()]))) <= MOST * 40
    assert len(set(clusters(found, alike_pairs(found)).values())) == 1


def test_even_images_resemble_nobody(tmp_path):
    blank = {f"{i}.png": Image.new("RGB", (40 + i, 40), (9, 9, 9)) for i in range(5)}
    equal = {f"equal{i}.png": Image.new("RGB", (40, 50), (200, 200, 200)) for i in range(5)}
    assert alike_pairs(seen(tmp_path, {**blank, **equal})) == []


def test_a_single_image_and_unreadable_files_have_no_pairs(tmp_path):
    (tmp_path / "broken.png").write_bytes(b"nothing")
    found = {str(tmp_path / "broken.png"): look(tmp_path / "broken.png"), **seen(tmp_path, {"a.png": eye(1)})}
    assert near_pairs(found) == [] and alike_pairs(found) == []


def test_a_candidate_says_where_its_copy_lies():
    """Without refinement the place of a view is exact; without the place the same images do not agree."""
    image = eye(3)
    copy = ImageOps.mirror(cropped(image, 0.05, 0.05, 0, 0))
    ((i, j, place),) = candidates(np.stack([grey(image, 64), grey(copy, 64)]))
    assert (i, j, place.mirrored) == (0, 1, True)
    assert agreement(grey(image, 192), grey(copy, 192), place, refine=False) > 0.9
    assert agreement(grey(image, 192), grey(copy, 192), Place(True), refine=False) < 0.5


def test_what_is_remembered_of_an_image_stays_small(tmp_path):
    eye(1).save(tmp_path / "a.png")
    assert len(str(asdict(look(tmp_path / "a.png")))) < 8192
