"""Images as they come, to RGB: EXIF rotation, palettes, CMYK, 16 bit and float windowed, truncated files named."""

import hashlib
import os
import stat

import numpy as np
from PIL import Image, ImageOps

from .arrays import is_array_image, read_array_image
from .dicom import holds_image, is_dicom
from .errors import MissingFile, UserError
from .io import sha256_file

# What counts as an image by its content: Pillow also opens films, fonts and whatever may be a TGA.
FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")


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
    """An 8-bit RGB PIL image.

    Grey levels beyond 8 bits are mapped linearly from their 0.5th..99.5th percentile, never clipped to 255.
    DICOM files (.dcm, or the DICM mark) are windowed as they ask.

    Raises:
        MissingFile: no such file. UserError: not readable as an image; both name the path.
    """
    if is_array_image(path):
        return Image.fromarray(read_array_image(path)).convert("RGB")
    try:
        if is_dicom(path):
            return Image.fromarray(_dicom(path)).convert("RGB")
        with Image.open(path) as image:
            image.load()
            return to_rgb(ImageOps.exif_transpose(image))
    except FileNotFoundError:
        raise MissingFile(f"no image at {path}") from None
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"unreadable image {path} ({type(error).__name__}: {error}); replace it, take it out of the split, or "
            f"set DATASET.ON_BAD_IMAGE skip"
        ) from None


def image_hash(path):
    """SHA-256 (hex) of what `read_image` reads: the bytes of the file, or of the image inside an array."""
    if is_array_image(path):
        image = read_array_image(path)
        return hashlib.sha256(repr(image.shape).encode() + image.tobytes()).hexdigest()
    return sha256_file(path)


def to_rgb(image):
    """Any PIL image as 8-bit RGB; transparency is laid on black."""
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return Image.fromarray(window(np.asarray(image, dtype=np.float32))).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA") or (image.mode == "P" and "transparency" in image.info):
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, (0, 0, 0, 255)), rgba).convert("RGB")
    return image.convert("RGB")


def window(values, low=None, high=None):
    """Grey values to uint8, linear between low and high (default: 0.5th and 99.5th percentile)."""
    low = float(np.percentile(values, 0.5)) if low is None else low
    high = float(np.percentile(values, 99.5)) if high is None else high
    scaled = (values - low) / max(high - low, 1e-12)
    return (scaled.clip(0, 1) * 255 + 0.5).astype(np.uint8)


def _dicom(path):
    """uint8 grey or RGB of a DICOM file: rescaled, windowed, MONOCHROME1 inverted."""
    import pydicom
    from pydicom.pixels import apply_modality_lut, apply_voi_lut

    data = pydicom.dcmread(path)
    pixels = data.pixel_array
    if pixels.ndim == 3 and pixels.shape[-1] == 3:
        return pixels.astype(np.uint8) if pixels.dtype == np.uint8 else window(pixels.astype(np.float32))
    if pixels.ndim == 3:
        raise UserError(f"{path} holds {pixels.shape[0]} frames; export one frame a file")
    values = np.asarray(apply_modality_lut(pixels, data), dtype=np.float32)
    if "WindowWidth" in data or "VOILUTSequence" in data:
        values = np.asarray(apply_voi_lut(apply_modality_lut(pixels, data), data), dtype=np.float32)
        grey = window(values, float(values.min()), float(values.max()))
    else:
        grey = window(values)
    return 255 - grey if data.get("PhotometricInterpretation") == "MONOCHROME1" else grey
