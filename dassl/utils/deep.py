"""Colours of 16 bits a sample, which Pillow opens but gives as 8: the samples whole, by Pillow's own decoders."""

import sys

import numpy as np
from PIL import Image

from .errors import UserError


def sample_bits(image):
    """Bits a sample, as far as Pillow would drop some: of PNG and TIFF; 8 of others."""
    if image.format == "TIFF":
        return max(image.tag_v2.get(258, (8,)))
    return 16 if image.format == "PNG" and ";16" in _raw_mode(image) else 8


def _raw_mode(image):
    """How Pillow unpacks the samples, e.g. 'RGB;16L'."""
    args = image.tile[0][3] if image.tile else ""
    return args if isinstance(args, str) else args[0]


def deep_samples(image):
    """uint16 (H, W, C) of 16-bit colour. Pillow keeps one byte of each sample, so it is asked twice: for the high
    bytes, and, in the other byte order, for the low ones. Grey with alpha is unpacked as the four bytes it is."""
    raw = _raw_mode(image).replace(";16N", ";16L" if sys.byteorder == "little" else ";16B")
    if raw == "LA;16B":
        return _unpacked(image, "RGBA", mode="RGBA").view(">u2").astype(np.uint16)
    if raw[:-1] not in ("RGB;16", "RGBA;16"):
        raise UserError(f"unreadable image {image.filename} (deep colours, but not RGB pixel by pixel); save it as RGB")
    low = _unpacked(image, raw[:-1] + ("B" if raw[-1] == "L" else "L"))
    return np.asarray(image).astype(np.uint16) * 256 + low


def _unpacked(image, raw, mode=""):
    """uint8 (H, W, C) of the file of an opened image, its bytes unpacked in another raw mode."""
    with Image.open(image.filename) as again:
        again._mode = mode or again.mode
        again.tile = [_renamed(tile, raw) for tile in again.tile]
        again.load()
        return np.array(again)


def _renamed(tile, raw):
    """A tile (codec, box, offset, arguments) whose arguments begin with another raw mode."""
    args = raw if isinstance(tile[3], str) else (raw, *tile[3][1:])
    return tile._replace(args=args) if hasattr(tile, "_replace") else (*tile[:3], args)  # a plain tuple before 11
