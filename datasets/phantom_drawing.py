"""How phantom draws: one function a modality, finding strengths in, picture and words out.

Every drawing function takes (strength, cue, rng): `strength` maps the modality's findings to 0..1,
`cue(value)` is that value with a little jitter, so that the signs of one finding do not move in lockstep. It
returns a float picture (64, 64, 3) in 0..1 before any nuisance, and the words that describe what was drawn.
"""

import numpy as np
from PIL import Image

SIZE = 64
Y, X = np.meshgrid(np.linspace(-1, 1, SIZE), np.linspace(-1, 1, SIZE), indexing="ij")


def texture(rng, cells):
    """Smooth noise (64, 64), about zero mean and unit spread, `cells` bumps across."""
    coarse = Image.fromarray(rng.standard_normal((cells + 2, cells + 2)).astype(np.float32))
    return np.asarray(coarse.resize((SIZE, SIZE), Image.Resampling.BICUBIC), dtype=np.float64)


def blob(cx, cy, rx, ry, angle=0.0, edge=0.15, wobble=()):
    """Mask (64, 64) of an ellipse with a soft edge; `wobble` holds (lobes, depth, phase) of its outline."""
    dx, dy = X - cx, Y - cy
    u = (dx * np.cos(angle) + dy * np.sin(angle)) / rx
    v = (dy * np.cos(angle) - dx * np.sin(angle)) / ry
    radius = np.hypot(u, v)
    if wobble:
        theta = np.arctan2(v, u)
        radius = radius / (1 + sum(depth * np.cos(lobes * theta + phase) for lobes, depth, phase in wobble))
    return np.clip((1 - radius) / edge + 0.5, 0, 1)


def line(x0, y0, x1, y1, width):
    """Mask (64, 64) of a straight stroke with soft sides."""
    dx, dy = x1 - x0, y1 - y0
    along = np.clip(((X - x0) * dx + (Y - y0) * dy) / (dx * dx + dy * dy + 1e-9), 0, 1)
    return np.clip(1.5 - np.hypot(X - x0 - along * dx, Y - y0 - along * dy) / width, 0, 1)


def paint(picture, mask, colour):
    """Lay a colour over the picture where the mask is, in place."""
    picture += mask[..., None] * (np.asarray(colour, dtype=np.float64) - picture)


def outline(rng, depth):
    """A random outline for `blob`, rougher with `depth`."""
    return [(lobes, depth * rng.uniform(0.4, 1) / lobes**0.5, rng.uniform(0, 6.28)) for lobes in (2, 3, 5, 7)]


def grade(value, low, middle, high):
    """The word for a strength in 0..1."""
    return low if value < 0.35 else middle if value < 0.65 else high


def chest(strength, cue, rng):
    heart, collapse = cue(strength["cardiomegaly"]), cue(strength["atelectasis"])
    fluid, patches = cue(strength["pleural effusion"]), cue(strength["pneumonia"])
    side, fluid_side = rng.choice([-1, 1], size=2)
    light = np.full((SIZE, SIZE), 0.08)
    light += 0.55 * blob(0, 0.35, 0.98, 1.35, edge=0.2)
    lungs = np.zeros((SIZE, SIZE))
    for s in (-1, 1):
        shrink = 0.30 * collapse if s == side else 0.0
        lungs = np.maximum(lungs, blob(0.46 * s, -0.08 - 0.6 * shrink, 0.34 - 0.3 * shrink, 0.68 - shrink,
                                       angle=0.12 * s, edge=0.2))
    light -= 0.42 * lungs
    light += 0.05 * lungs * np.cos(16 * (Y + 0.35 * (np.abs(X) - 0.5) ** 2) + rng.uniform(0, 6))  # ribs
    light += 0.30 * lungs * patches * np.clip(0.55 + 0.8 * texture(rng, 5), 0, 1)
    for _ in range(2):  # plate-like bands in the lower zone of the collapsed side
        y = rng.uniform(0.05, 0.45)
        light += 0.32 * collapse * lungs * line(0.2 * side, y, 0.75 * side, y - rng.uniform(-0.1, 0.25), 0.07)
    level = 0.62 - 0.85 * fluid - 0.35 * (np.abs(X) - 0.45)  # the meniscus climbs towards the chest wall
    light += 0.40 * lungs * (X * fluid_side > 0) * np.clip((Y - level) / 0.12, 0, 1)
    light = np.maximum(light, 0.58 * blob(0.12, 0.33, 0.24 + 0.24 * heart, 0.34 + 0.08 * heart, angle=0.5))
    light = np.maximum(light, 0.60 * line(0, -1, 0, 1, 0.09))
    words = [grade(heart, "normal heart size", "mildly enlarged heart", "enlarged heart"),
             grade(collapse, "full lung volume", "slight volume loss", "volume loss with bands"),
             grade(fluid, "sharp costophrenic angle", "blunted costophrenic angle", "fluid level"),
             grade(patches, "clear lungs", "faint opacity", "patchy consolidation")]
    return np.repeat(light[..., None], 3, axis=2), words


def fundus(strength, cue, rng):
    cupping, bleeding, exudate = (cue(strength["glaucoma"]), cue(strength["diabetic retinopathy"]),
                                  cue(strength["diabetic retinopathy"]))
    side = rng.choice([-1, 1])
    picture = np.zeros((SIZE, SIZE, 3)) + 0.03
    shade = 1 + 0.08 * texture(rng, 3)
    eye = blob(0, 0, 0.95, 0.95, edge=0.06)
    paint(picture, eye, (0.72, 0.33, 0.14))
    picture *= np.clip(shade, 0.7, 1.3)[..., None]
    paint(picture, 0.5 * blob(-0.35 * side, 0, 0.25, 0.25, edge=1.0), (0.4, 0.13, 0.06))  # macula
    cx, cy = 0.48 * side + rng.normal(0, 0.04), rng.normal(0, 0.05)
    for up in (-1, 1):  # arcades
        x, y = cx, cy
        for step in range(4):
            x2, y2 = x - side * 0.32, y + up * (0.36, 0.16, 0.02, -0.12)[step] + rng.normal(0, 0.05)
            paint(picture, 0.75 * eye * line(x, y, x2, y2, 0.05 - 0.008 * step), (0.42, 0.07, 0.05))
            x, y = x2, y2
    paint(picture, blob(cx, cy, 0.23, 0.25, edge=0.25), (0.93, 0.66, 0.32))
    cup = 0.07 + 0.13 * cupping
    paint(picture, blob(cx, cy, cup, cup * 1.08, edge=0.3), (0.99, 0.92, 0.72))
    spots = _specks(picture, eye, rng, bleeding, 13, (0.035, 0.075), (0.35, 0.03, 0.03))
    flecks = _specks(picture, eye, rng, exudate, 9, (0.025, 0.05), (0.96, 0.86, 0.42))
    words = [grade(cupping, "small optic cup", "moderate optic cup", "large optic cup"),
             grade(spots, "clear retina", "few red dots", "many red haemorrhages"),
             grade(flecks, "no exudates", "few yellow flecks", "yellow exudates")]
    return picture, words


def _specks(picture, where, rng, amount, most, radii, colour):
    """Scatter up to `most` small spots over the retina; returns the share that was drawn."""
    count = round(most * amount)
    for _ in range(count):
        r, a, size = 0.8 * rng.uniform(0.1, 1) ** 0.5, rng.uniform(0, 6.28), rng.uniform(*radii)
        paint(picture, 0.9 * where * blob(r * np.cos(a), r * np.sin(a), size, size, edge=0.6), colour)
    return count / most


def ultrasound(strength, cue, rng):
    axis = (1 + strength["breast carcinoma"] - strength["breast cyst"]) / 2
    rough, tall, solid, shadow = cue(axis), cue(axis), cue(axis), cue(axis)
    light = 0.42 + 0.10 * np.cos(5 * Y + 0.8 * texture(rng, 3) + rng.uniform(0, 6)) - 0.12 * Y
    cx, cy, size = rng.normal(0, 0.18), rng.normal(-0.12, 0.1), rng.uniform(0.30, 0.42)
    rx, ry = size * (1.25 - 0.5 * tall), size * (0.75 + 0.4 * tall)
    below = np.clip((Y - cy) / 0.5, 0, 1) * np.clip((rx - np.abs(X - cx)) / 0.12 + 0.5, 0, 1)
    light += below * (0.22 - 0.44 * shadow)  # enhancement behind fluid, shadow behind a solid mass
    lesion = blob(cx, cy, rx, ry, rng.normal(0, 0.15), 0.12 + 0.25 * rough, outline(rng, 0.22 * rough))
    inside = 0.05 + 0.20 * solid + 0.05 * solid * texture(rng, 8)
    light += lesion * (inside - light)
    light = np.clip(light, 0.02, 1) * np.clip(1 + 0.30 * texture(rng, 30), 0.2, 2)  # speckle
    words = [grade(rough, "smooth margin", "lobulated margin", "spiculated margin"),
             grade(tall, "wider than tall", "round shape", "taller than wide"),
             grade(solid, "anechoic content", "low echoes", "solid hypoechoic content"),
             grade(shadow, "posterior enhancement", "no posterior change", "posterior shadow")]
    return np.repeat(light[..., None], 3, axis=2), words


def skin(strength, cue, rng):
    axis = (1 + strength["melanoma"] - strength["melanocytic nevus"]) / 2
    ragged, colours, wide, lopsided = cue(axis), cue(axis), cue(axis), cue(axis)
    tone = np.array([0.88, 0.68, 0.56]) * rng.uniform(0.8, 1.08)
    picture = np.broadcast_to(tone, (SIZE, SIZE, 3)) * (1 + 0.03 * texture(rng, 10)[..., None])
    cx, cy, size = rng.normal(0, 0.1), rng.normal(0, 0.1), 0.36 + 0.22 * wide
    form = dict(angle=rng.uniform(0, 3.14), edge=0.2)
    lesion = blob(cx, cy, size, size * rng.uniform(0.8, 1), wobble=outline(rng, 0.24 * ragged), **form)
    paint(picture, 0.85 * lesion, np.array([0.48, 0.29, 0.18]) * rng.uniform(0.8, 1.15))
    picture *= 1 + 0.10 * (lesion * texture(rng, 14))[..., None]  # pigment network
    turn = rng.uniform(0, 6.28)
    dark_x, dark_y = cx + 0.45 * size * np.cos(turn), cy + 0.45 * size * np.sin(turn)
    dark = blob(dark_x, dark_y, 0.6 * size, 0.5 * size, edge=0.5)
    paint(picture, 0.8 * lopsided * lesion * dark, (0.12, 0.07, 0.06))
    for colour in ((0.35, 0.36, 0.46), (0.62, 0.22, 0.18)):  # blue-white veil, red areas
        patch = np.clip(texture(rng, 4) - 0.3, 0, 1)
        paint(picture, 0.8 * colours * lesion * patch, colour)
    words = [grade(ragged, "regular border", "slightly uneven border", "irregular border"),
             grade(colours, "one brown colour", "two colours", "several colours"),
             grade(wide, "small lesion", "medium lesion", "large lesion"),
             grade(lopsided, "symmetric shape", "slight asymmetry", "asymmetric dark area")]
    return picture, words


def smear(strength, cue, rng):
    curved, infected = cue(strength["sickle cell anemia"]), cue(strength["malaria"])
    picture = np.array([0.95, 0.88, 0.84]) * (1 + 0.01 * texture(rng, 4)[..., None])
    cells = [(x, y) for x in (-0.75, -0.25, 0.25, 0.75) for y in (-0.75, -0.25, 0.25, 0.75)]
    sickles, rings = (round(0.6 * len(cells) * share) for share in (curved, infected))
    order = rng.permutation(len(cells))
    ill = rng.permutation(len(cells))
    for rank, which in enumerate(order):
        cx, cy = np.array(cells[which]) + rng.normal(0, 0.06, 2)
        angle, size = rng.uniform(0, 3.14), rng.uniform(0.19, 0.24)
        _red_cell(picture, cx, cy, size, angle, rank < sickles)
        if ill[which] < rings:
            _parasite(picture, cx, cy, size, rng)
    words = [grade(sickles / 9.6, "round red cells", "some elongated cells", "many crescent cells"),
             grade(rings / 9.6, "clean cells", "few purple dots", "many purple rings inside cells")]
    return picture, words


def _red_cell(picture, cx, cy, size, angle, bent):
    """A disc with a pale centre, or a thin crescent."""
    if bent:
        body = blob(cx, cy, 1.3 * size, 0.55 * size, angle, edge=0.4)
        bite_x, bite_y = cx - 0.35 * size * np.sin(angle), cy + 0.35 * size * np.cos(angle)
        bite = blob(bite_x, bite_y, size, 0.35 * size, angle, edge=0.5)
        paint(picture, np.clip(body - bite, 0, 1), (0.80, 0.42, 0.42))
    else:
        paint(picture, blob(cx, cy, size, size, edge=0.25), (0.82, 0.46, 0.46))
        paint(picture, 0.6 * blob(cx, cy, 0.4 * size, 0.4 * size, edge=0.9), (0.93, 0.74, 0.72))


def _parasite(picture, cx, cy, size, rng):
    """A purple ring with a darker dot, off the cell's centre."""
    cx, cy = cx + rng.normal(0, 0.15 * size), cy + rng.normal(0, 0.15 * size)
    ring = blob(cx, cy, 0.6 * size, 0.6 * size, edge=0.5) - blob(cx, cy, 0.28 * size, 0.28 * size, edge=0.8)
    paint(picture, 0.85 * np.clip(ring, 0, 1), (0.42, 0.20, 0.55))
    paint(picture, blob(cx + 0.4 * size, cy, 0.25 * size, 0.25 * size, edge=0.8), (0.30, 0.08, 0.40))


DRAWINGS = {"chest X-ray": chest, "fundus photograph": fundus, "breast ultrasound image": ultrasound,
            "dermoscopy image": skin, "blood smear micrograph": smear}
