"""Images as they come, to RGB: EXIF rotation, palettes, CMYK, 16 bit and float windowed, truncated files named."""

import hashlib
import os
import stat

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from .arrays import is_array_image, read_array_image
from .deep import deep_samples, sample_bits
from .dicom import frame_of, holds_image, is_dicom, read_dicom
from .errors import MissingFile, UserError
from .grey import eight_bits, window
from .io import sha256_file, sha256_of

VERSION = 3  # of the pixels that read_image gives: what is kept of decoded images carries it
# What counts as an image by its content: Pillow also opens films, fonts and whatever may be a TGA.
FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
GREY = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")  # modes of more than 8 bits
MEND = "replace it, take it out of the split, or set DATASET.ON_BAD_IMAGE skip"


def recognised(path):
    """Whether a file is an image by its content, whatever its name: one of FORMATS, or DICOM with pixels.

    Reads the header only, so a truncated image is recognised; False for what is no regular file or is not there.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            return False
        if is_dicom(path):
            return holds_image(path)
        Image.init()
        with Image.open(path, formats=[name for name in FORMATS if name in Image.OPEN]):
            return True
    except Exception:  # Pillow raises whatever comes up when bytes are no image
        return False


def read_image(path):
    """An 8-bit RGB PIL image of a file, of an image inside an array (`<file>.npz::<part>/<index>`), or of a frame of a
    DICOM file (`<file>::<number from 1>`).

    Grey levels beyond 8 bits are mapped linearly from their 0.5th..99.5th percentile, never clipped to 255; colours
    beyond 8 bits by the depth they fill. DICOM files, whatever their name, are shown as their header says. An EXIF turn
    is carried out and transparency laid on black. Upstream's read_image is PIL's convert("RGB"), without any of these.

    Raises:
        MissingFile: no such file. UserError: not readable as an image; both name the path.
    """
    if is_array_image(path):
        return Image.fromarray(read_array_image(path)).convert("RGB")
    name, (path, frame) = path, frame_of(path)
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # opening a FIFO would wait for ever
            raise UserError(f"no regular file: {path}")
        if is_dicom(path):
            return Image.fromarray(read_dicom(path, frame)).convert("RGB")
        if frame is not None:
            raise UserError(f"{path} is no DICOM file: it has no frame {frame}")
        with Image.open(path) as image:
            return _read(image)
    except FileNotFoundError:
        raise MissingFile(f"no image at {name}") from None
    except UserError:
        raise
    except UnidentifiedImageError:
        raise UserError(f"unreadable image {path} (no format that Pillow reads, and not DICOM); {MEND}") from None
    except Exception as error:
        why = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(f"unreadable image {path} ({why}); {MEND}") from None


def _read(image):
    """8-bit RGB of an opened image, upright."""
    if sample_bits(image) <= 8 or image.mode == "CMYK" or image.mode in GREY:
        image.load()
        return to_rgb(ImageOps.exif_transpose(image), image.format == "TIFF" and image.tag_v2.get(262) == 0)
    samples = deep_samples(image)
    orientation = image.getexif().get(0x0112, 1)  # asked last: Pillow turns a TIFF itself when it loads it
    if samples.shape[-1] == 2:
        grey = window(samples[..., 0], use=samples[..., 1] > 0, full=(0, 2**16 - 1))
        samples = np.stack([grey, grey, grey, eight_bits(samples[..., 1])], axis=-1)
    else:
        samples = np.concatenate([eight_bits(samples[..., :3]), eight_bits(samples[..., 3:])], axis=-1)
    rgb = to_rgb(Image.fromarray(samples))
    rgb.getexif()[0x0112] = orientation
    return ImageOps.exif_transpose(rgb)


def image_hash(path):
    """SHA-256 (hex) of what `read_image` reads: the bytes of the file and which frame of it is named, or of the image
    inside an array; and VERSION."""
    if is_array_image(path):
        image = read_array_image(path)
        return sha256_of([VERSION, image.shape, hashlib.sha256(image.tobytes()).hexdigest()])
    file, frame = frame_of(path)
    return sha256_of([VERSION, sha256_file(file), frame])


def to_rgb(image, white_is_zero=False):
    """Any PIL image as 8-bit RGB; transparency is laid on black.

    Args:
        white_is_zero: grey levels beyond 8 bits count from white (TIFF's MINISWHITE; Pillow inverts 8 bits itself).
    """
    if image.mode in GREY:
        values = np.asarray(image)
        top = 1 if image.mode == "F" else 2**16 - 1 if values.max(initial=0) < 2**16 else 2**31 - 1
        grey = window(values, full=(0, top))
        return Image.fromarray(255 - grey if white_is_zero else grey).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA") or (image.mode == "P" and "transparency" in image.info):
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, (0, 0, 0, 255)), rgba).convert("RGB")
    return image.convert("RGB")
