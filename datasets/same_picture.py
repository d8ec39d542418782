"""Do two grey images show the same picture, whatever crop, mirror, size, light or JPEG lies between them?

Two eyes, or two chests, agree in nearly everything that is large: the black surround, the disc, the shade. What only
copies share is the detail. So the constant surround is left out, the shade is taken away (difference of Gaussians),
every place is given the same weight (or one bright reflection would decide), and what remains is correlated:

    x = (G_fine - G_coarse) a,  y = the same of b laid onto a,  agreement = corr(x / local norm of x, y / ... of y)

A Place lays one image onto the other: mirrored or not, then an affine map in units of the image side.
"""

from dataclasses import dataclass

import cv2
import numpy as np

FINE, COARSE = 1, 4  # pixels: finer is noise and JPEG, coarser is shade
LOCAL = 8  # pixels: the reach of a local norm
NOISE = 1.0  # grey levels, squared: below this energy a place holds no detail
RIM = 1 / 21  # of the side: the window around a pixel that must be inside the picture
DARK, BRIGHT = 12, 250  # grey levels of a surround
STEPS = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 30, 1e-4)


@dataclass(frozen=True)
class Place:
    """The point p of a (x, y from 0 to 1) lies at `scale * p + shift` of b, after b was mirrored if `mirrored`."""

    mirrored: bool = False
    scale: tuple = (1.0, 1.0)
    shift: tuple = (0.0, 0.0)

    def pixels(self, side):
        """(2, 3) float32: the map between pixel centres of images of side x side."""
        shift = [side * t + (s - 1) / 2 for s, t in zip(self.scale, self.shift)]
        return np.array([[self.scale[0], 0, shift[0]], [0, self.scale[1], shift[1]]], np.float32)


def agreement(a, b, place, refine=True):
    """-1..1: how far the details of b agree with those of a where both show something.

    a, b: (side, side) uint8. `place` is where to lay b; it must be right to a few pixels if `refine`, which then
    finds the affine map by OpenCV's ECC, else to one pixel.
    """
    if place.mirrored:
        b = np.ascontiguousarray(b[:, ::-1])
    within, a, b = (_within(a), _within(b)), a.astype(np.float32), b.astype(np.float32)
    first = place.pixels(len(a))
    maps = [first, _refined(a, b, within[1], first)] if refine else [first]
    return max(_agreement(a, b, within, m) for m in maps)


def _agreement(a, b, within, lay):
    weight = within[0] & _laid(within[1], lay, cv2.INTER_NEAREST)
    rim = np.ones((round(RIM * len(a)), round(RIM * len(a))), np.uint8)
    weight = cv2.erode(weight, rim, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    if weight.mean() < 0.1:
        return 0.0
    weight = weight.astype(np.float32)
    x, y = (_detail(image, weight) for image in (a, _laid(b, lay, cv2.INTER_LINEAR)))
    return float((x * y).sum() / np.sqrt((x * x).sum() * (y * y).sum() + 1e-6))


def _detail(image, weight):
    """The band between FINE and COARSE, of equal local energy everywhere inside `weight`, 0 outside."""
    band = (_blurred(image, weight, FINE) - _blurred(image, weight, COARSE)) * weight
    return band / np.sqrt(_blurred(band * band, weight, LOCAL) + NOISE)


def _blurred(image, weight, sigma):
    """Mean of the neighbourhood, of the weighted pixels alone: nothing leaks in from the surround."""
    share = cv2.GaussianBlur(weight, (0, 0), sigma)
    return cv2.GaussianBlur(image * weight, (0, 0), sigma) / np.maximum(share, 1e-3)


def _within(grey):
    """(side, side) uint8: 1 where the picture is, 0 in a black or white surround that reaches the border."""
    _, regions = cv2.connectedComponents(((grey <= DARK) | (grey >= BRIGHT)).astype(np.uint8), connectivity=4)
    border = np.unique(np.concatenate([regions[0], regions[-1], regions[:, 0], regions[:, -1]]))
    within = (~np.isin(regions, border[border > 0])).astype(np.uint8)
    return within if within.mean() > 0.125 else np.ones_like(within)


def _refined(a, b, within, lay):
    try:
        return cv2.findTransformECC(a, b, lay.copy(), cv2.MOTION_AFFINE, STEPS, within * 255, 3)[1]
    except cv2.error:  # nothing to hold on to, as for different pictures
        return lay


def _laid(image, lay, how):
    return cv2.warpAffine(image, lay, image.shape[::-1], flags=how | cv2.WARP_INVERSE_MAP)
