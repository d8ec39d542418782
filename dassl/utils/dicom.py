"""DICOM files, recognised by content and shown as their header says.

    stored values -> modality LUT or rescale -> VOI LUT or window -> inverted or not -> 8 bits       (grey)
    stored values -> palette, or YBR to RGB -> 8 bits                                               (colour)

Every step is pydicom's. Not applied: overlays, ICC profiles. `loop.dcm::12` names the 12th frame of a file with
several; which of them is meant is never guessed.
"""

import os
import re
from pathlib import Path

import numpy as np

from .errors import UserError
from .grey import window

FIRST_GROUPS = (b"\x02\x00", b"\x08\x00", b"\x00\x02", b"\x00\x08")  # file meta or identification, either byte order
COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
MAY_BE_EMPTY = ("RescaleSlope", "RescaleIntercept", "ModalityLUTSequence", "VOILUTSequence", "WindowCenter",
                "WindowWidth", "VOILUTFunction", "PixelPaddingValue", "PixelPaddingRangeLimit")  # fmt: skip
OF_FRAMES = ("PixelValueTransformationSequence", "FrameVOILUTSequence")  # where an enhanced object has slope and window
FRAME = re.compile(r"(?P<file>.+)::(?P<frame>\d{1,9})", re.DOTALL)


def frame_of(path):
    """(file, number of the frame from 1) of a name `<file>::<number>`; (path, None) of any other, or of a file that is
    called so."""
    match = FRAME.fullmatch(str(path))
    if match is None or os.path.exists(path):
        return path, None
    return match["file"], int(match["frame"])


def frames(path):
    """How many frames a file's header tells of; 1 of what is no DICOM."""
    return _told(header) if is_dicom(path) and (header := _header(path)) is not None else 1


def _told(data):
    try:
        return int(data.get("NumberOfFrames") or 1)
    except (TypeError, ValueError):  # several values, or none that is a number: pydicom says so when it decodes
        return 1


def is_dicom(path):
    """Whether a file is DICOM by its content: the DICM mark after the preamble, or, without preamble, a data set
    that starts with group 0002 or 0008 and names its SOP class. The suffix says nothing."""
    with open(path, "rb") as f:
        head = f.read(132)
    return head[128:] == b"DICM" or (head[:2] in FIRST_GROUPS and _header(path) is not None)


def holds_image(path):
    """Whether a DICOM file has pixels (DICOMDIR, reports and plans have none); reads its header only."""
    header = _header(path)
    return header is not None and bool(header.get("Rows")) and bool(header.get("Columns"))


def _header(path):
    """What tells an image from another file; None where pydicom can't read it."""
    import pydicom

    tags = ["SOPClassUID", "Rows", "Columns", "NumberOfFrames"]
    try:
        header = pydicom.dcmread(Path(path), force=True, stop_before_pixels=True, specific_tags=tags)
    except Exception:  # pydicom raises whatever comes up when bytes are no DICOM
        return None
    return header if "SOPClassUID" in header or "MediaStorageSOPClassUID" in header.file_meta else None


def read_dicom(path, frame=None):
    """uint8 (H, W) or (H, W, 3) of a DICOM file.

    Args:
        frame: number of the one that is meant, from 1, where there are several.

    Raises:
        UserError: several and none named, none of this number, or what can't be shown.
    """
    import pydicom

    data = pydicom.dcmread(Path(path), force=True)
    _decodable(data, path)
    pixels, place = _decoded(data, frame, path)
    _tell_of_frame(data, place)
    for key in MAY_BE_EMPTY:  # an element without value says as much as none
        if key in data and data.get(key) in (None, "", []):
            del data[key]
    kind = data.PhotometricInterpretation
    if kind == "PALETTE COLOR":
        return _palette(pixels, data)
    if kind in COLOUR:
        return window(pixels, 0, 2**data.BitsStored - 1)
    if kind not in ("MONOCHROME1", "MONOCHROME2"):
        raise UserError(f"{path}: photometric interpretation {kind} is not supported; export it as RGB")
    return _grey(pixels, data)


def _decoded(data, frame, path):
    """((H, W) or (H, W, 3) stored values of one frame, its index)."""
    from pydicom.pixels import pixel_array

    if (told := _told(data)) > 1:
        place = _place_of(frame, told, path)
        return pixel_array(data, index=place), place
    pixels = pixel_array(data)
    whole = pixels[None] if pixels.ndim == 2 + (data.SamplesPerPixel > 1) else pixels  # several, though none is told
    place = _place_of(frame, len(whole), path)
    return whole[place], place


def _place_of(frame, several, path):
    """Index from 0 of a frame."""
    if frame is None and several > 1:
        raise UserError(f"{path} holds {several} frames, an image is one: to predict or explain name it, the first as "
                        f"{Path(path).name}::1; a data set takes one frame a file")  # fmt: skip
    if frame is not None and not 1 <= frame <= several:
        raise UserError(f"{path} has no frame {frame}: it has frames 1 to {several}")
    return (frame or 1) - 1


def _tell_of_frame(data, place):
    """Put what an enhanced object says of all frames, then of this one, where any other has it."""
    for key, at in (("SharedFunctionalGroupsSequence", 0), ("PerFrameFunctionalGroupsSequence", place)):
        groups = data.get(key) or []
        for name in OF_FRAMES if at < len(groups) else ():
            for item in (groups[at].get(name) or [])[:1]:
                data.update(item)


def _decodable(data, path):
    """Refuse what no installed package decodes; a file without file meta is read by guess, decoding wants its name."""
    from pydicom.pixels import get_decoder
    from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    if "TransferSyntaxUID" not in data.file_meta:
        implicit, little = data.original_encoding
        explicit = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
        data.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else explicit
    syntax = data.file_meta.TransferSyntaxUID
    if not get_decoder(syntax).is_available:
        raise UserError(f"{path} is compressed as {syntax.name}; to read it: pip install 'pylibjpeg[all]'")


def _palette(pixels, data):
    from pydicom.pixels import apply_color_lut

    entries, first, bits = data.RedPaletteColorLookupTableDescriptor
    inside = pixels.astype(np.int64).clip(first, first + (entries or 2**16) - 1)  # pydicom wraps what lies above
    colours = apply_color_lut(inside, data)[..., :3]
    return window(colours, 0, min(2**bits - 1, np.iinfo(colours.dtype).max))


def _grey(pixels, data):
    from pydicom.pixels import apply_modality_lut

    known = ~_padding(pixels, data)
    values = apply_modality_lut(pixels, data)
    if "VOILUTSequence" in data:
        grey = _looked_up(values, data)
    elif _has_window(data):
        grey = _windowed(values, data)
    else:
        full = _stored_range(data)
        ready = data.get("BitsStored", 32) <= 8 and "ModalityLUTSequence" not in data
        grey = window(values, *full) if ready else window(values, use=known, full=full)
    if data.PhotometricInterpretation == "MONOCHROME1" or data.get("PresentationLUTShape") == "INVERSE":
        grey = 255 - grey
    return np.where(known, grey, np.uint8(0))


def _padding(pixels, data):
    """Mask of the pixels outside the image (stored values, before any LUT)."""
    if "PixelPaddingValue" not in data:
        return np.zeros(pixels.shape, dtype=bool)
    ends = data.PixelPaddingValue, data.get("PixelPaddingRangeLimit", data.PixelPaddingValue)
    return (pixels >= min(ends)) & (pixels <= max(ends))


def _has_window(data):
    """Whether the header has a window of a width that the standard allows (of LINEAR: 1 or more)."""
    if "WindowWidth" not in data or "WindowCenter" not in data:
        return False
    width = data.WindowWidth if data["WindowWidth"].VM == 1 else data.WindowWidth[0]
    return width >= 1 if data.get("VOILUTFunction", "LINEAR").upper() == "LINEAR" else width > 0


def _windowed(values, data):
    """The (first) window onto 0..255: the range is what the window gives below and above it, not what is there."""
    from pydicom.pixels import apply_windowing

    with np.errstate(over="ignore"):
        low, high = apply_windowing(np.array([-np.inf, np.inf]), data)
        return window(apply_windowing(values, data), low, high)


def _looked_up(values, data):
    """The (first) VOI LUT onto 0..255."""
    from pydicom.pixels import apply_voi

    item = data.VOILUTSequence[0]
    entries, first, bits = item.LUTDescriptor
    item.LUTDescriptor = [entries, first, max(bits, 16)]  # pydicom wraps the index of a long table of 8-bit entries
    return window(apply_voi(np.rint(values).astype(np.int64), data), 0, 2**bits - 1)


def _stored_range(data):
    """(least, greatest) value that the stored bits can mean, after the modality LUT; 0..1 of float pixels."""
    from pydicom.pixels import apply_modality_lut

    if "BitsStored" not in data or "PixelData" not in data:
        return 0, 1
    bits, signed = data.BitsStored, data.PixelRepresentation
    ends = np.array([-(2 ** (bits - 1)), 2 ** (bits - 1) - 1] if signed else [0, 2**bits - 1], dtype=np.int64)
    low, high = sorted(map(float, apply_modality_lut(ends, data)))
    return (low, high) if low < high else (low, low + 1)
