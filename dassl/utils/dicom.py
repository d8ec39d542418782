"""DICOM files: recognised by content."""

from pathlib import Path


def is_dicom(path):
    """Whether a file is DICOM by its content: the DICM mark after the preamble, or, without preamble, a data set
    that starts with group 0002 or 0008 and names its SOP class. The suffix says nothing."""
    with open(path, "rb") as f:
        head = f.read(132)
    return head[128:] == b"DICM" or (head[:2] in _FIRST_GROUPS and _header(path) is not None)


def holds_image(path):
    """Whether a DICOM file has pixels (DICOMDIR, reports and plans have none); reads its header only."""
    header = _header(path)
    return header is not None and bool(header.get("Rows")) and bool(header.get("Columns"))


_FIRST_GROUPS = (b"\x02\x00", b"\x08\x00", b"\x00\x02", b"\x00\x08")  # file meta or identification, either byte order


def _header(path):
    """What tells an image from another file; None where pydicom can't read it."""
    import pydicom

    try:
        header = pydicom.dcmread(
            Path(path), force=True, stop_before_pixels=True, specific_tags=["SOPClassUID", "Rows", "Columns"]
        )
    except Exception:  # pydicom raises whatever comes up when bytes are no DICOM
        return None
    return header if "SOPClassUID" in header or "MediaStorageSOPClassUID" in header.file_meta else None
