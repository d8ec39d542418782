"""An image is known by its content, not by its name."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom.data import get_testdata_file

from dassl.utils.dicom import is_dicom
from dassl.utils.images import recognised

RAMP = np.arange(40 * 30, dtype=np.uint8).reshape(30, 40)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "BMP", "TIFF", "WEBP", "GIF", "JPEG2000", "PPM"])
@pytest.mark.parametrize("name", ["a.jfif", "b.jpe", "c.jp2", "d.pgm", "no_suffix", "e.txt"])
def test_an_image_under_any_name(form, name, tmp_path):
    Image.fromarray(RAMP).save(tmp_path / name, form)
    assert recognised(tmp_path / name) and recognised(str(tmp_path / name)) and not is_dicom(tmp_path / name)


@pytest.mark.parametrize("name", ["IMG0001", "MR.1.2.840.IMA", "a.dcm", "b.png"])
def test_dicom_under_any_name_with_and_without_preamble(name, tmp_path):
    content = Path(get_testdata_file("MR_small.dcm")).read_bytes()
    for bytes_ in (content, content[132:]):
        (tmp_path / name).write_bytes(bytes_)
        assert is_dicom(tmp_path / name) and recognised(tmp_path / name)


@pytest.mark.parametrize("name", ["dicomdirtests/DICOMDIR", "reportsi.dcm", "rtplan.dcm", "waveform_ecg.dcm"])
def test_dicom_without_pixels_is_no_image(name):
    assert not recognised(get_testdata_file(name))


def test_what_is_no_image(tmp_path):
    texts = {"a.png": b"", "b.jpg": b"path,label\n1.png,cyst\n", "c.csv": b"\x08\x00" + b"file,group\n" * 20,
             "d.dcm": b"x" * 200, "Thumbs.db": b"\xd0\xcf\x11\xe0" * 100, "e.npz": b"PK\x03\x04" * 50}
    for name, content in texts.items():
        (tmp_path / name).write_bytes(content)
        assert not recognised(tmp_path / name), name
    os.mkfifo(tmp_path / "fifo.png")  # opening it would wait for ever
    assert not recognised(tmp_path / "fifo.png") and not recognised(tmp_path) and not recognised(tmp_path / "none.png")
