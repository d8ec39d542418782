"""DICOM files made by hand."""

import numpy as np
import pydicom
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid


def dataset(pixels, bits=16, signed=False, **tags):
    """A data set of grey pixels (H, W) or of (H, W, 3) colours; tags set or override what is in the header."""
    data = pydicom.Dataset()
    data.file_meta = pydicom.dataset.FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = SecondaryCaptureImageStorage
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = generate_uid()
    allocated = 8 if bits <= 8 else 16
    data.Rows, data.Columns = pixels.shape[:2]
    data.SamplesPerPixel = 3 if pixels.ndim == 3 else 1
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = allocated, bits, bits - 1, int(signed)
    data.PhotometricInterpretation = "RGB" if pixels.ndim == 3 else "MONOCHROME2"
    if pixels.ndim == 3:
        data.PlanarConfiguration = 0
    for key, value in tags.items():
        setattr(data, key, value)
    data.PixelData = pixels.astype(f"<{'i' if signed else 'u'}{allocated // 8}").tobytes()
    return data


def write(path, pixels, **tags):
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset(pixels, **tags).save_as(path, enforce_file_format=True)
    return path


def film(path, frames, tagged=True, **tags):
    """A file of frames (F, H, W) or (F, H, W, 3); its header tells how many, or (`tagged` False) does not."""
    data = dataset(frames[0], **tags)
    data.PixelData = b"".join(dataset(f, **tags).PixelData for f in frames)
    if tagged:
        data.NumberOfFrames = len(frames)
    data.save_as(path, enforce_file_format=True)
    return str(path)


def voi_lut(table, first=0, bits=8):
    item = pydicom.Dataset()
    item.add_new("LUTDescriptor", "US", [len(table), first, bits])
    item.add_new("LUTData", "US", [int(v) for v in table])
    return pydicom.Sequence([item])


def palette(colours, bits=8, first=0):
    """Tags of a palette (N, 3): 8-bit entries, or 16-bit words."""
    tags = {"PhotometricInterpretation": "PALETTE COLOR"}
    for name, channel in zip(("Red", "Green", "Blue"), np.asarray(colours).T):
        tags[f"{name}PaletteColorLookupTableDescriptor"] = [len(colours), first, bits]
        tags[f"{name}PaletteColorLookupTableData"] = channel.astype("<u2" if bits == 16 else np.uint8).tobytes()
    return tags
