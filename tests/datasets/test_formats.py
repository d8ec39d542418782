"""Images as they come: each format becomes the right RGB pixels, or is named in one line."""

import os

import numpy as np
import pytest
from PIL import Image

from cilmp import datasets
from cilmp.datasets.scan import look
from cilmp.tests.datasets.dataset_cfg import cfg_for
from cilmp.tests.datasets.dicom_files import write as dicom
from dassl.utils import read_image
from dassl.utils.errors import UserError

RAMP = np.linspace(0, 255, 40 * 30).reshape(30, 40).astype(np.uint8)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CILMP_CACHE", str(tmp_path / "cache"))


def near(image, wished, tolerance=3):
    assert image.mode == "RGB"
    got = np.asarray(image).astype(int)
    assert got.shape[:2] == wished.shape[:2]
    assert np.abs(got - np.broadcast_to(wished.reshape(*wished.shape[:2], -1), got.shape)).max() <= tolerance


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.tif", "a.webp", "a.gif", "a.jpg", "a.JPEG"])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_common_formats(name, mode, tmp_path):
    Image.fromarray(RAMP).convert(mode).save(tmp_path / name, **({"lossless": True} if "webp" in name else {}))
    near(read_image(str(tmp_path / name)), RAMP, 6)


@pytest.mark.parametrize("mode", ["P", "RGBA", "LA", "CMYK", "1"])
def test_other_modes(mode, tmp_path):
    name = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    source = Image.fromarray((RAMP > 99).astype(np.uint8) * 255) if mode == "1" else Image.fromarray(RAMP)
    stored = source.quantize(256) if mode == "P" else source.convert("RGB").convert(mode)
    stored.save(name)
    near(read_image(str(name)), np.asarray(source.convert("L")).astype(int), 6)
    assert look(name).mode == mode


@pytest.mark.parametrize("name", ["a.tif", "a.png"])
def test_sixteen_bits_are_windowed_not_clipped(name, tmp_path):
    Image.fromarray(RAMP.astype(np.uint16) * 16 + 1000).save(tmp_path / name)
    got = np.asarray(read_image(str(tmp_path / name)))[..., 0]
    assert got.min() == 0 and got.max() == 255 and len(np.unique(got)) > 200


def test_camera_rotation_is_undone(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated by a quarter turn
    Image.fromarray(RAMP).convert("RGB").save(tmp_path / "a.jpg", exif=exif, quality=95)
    near(read_image(str(tmp_path / "a.jpg")), np.rot90(RAMP, -1), 8)


@pytest.mark.parametrize("name, content", [("a.png", b""), ("a.jpg", b"\xff\xd8\xff\xe0 no picture"),
                                           ("a.dcm", b"x" * 200)])
def test_what_is_no_image_is_named_in_one_line(name, content, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as error:
        read_image(str(tmp_path / name))
    assert name in str(error.value) and "\n" not in str(error.value)
    assert name in look(tmp_path / name).error


def test_what_is_no_regular_file_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "a.png")  # opening it would wait for a writer
    (tmp_path / "b.png").mkdir()
    for name in ("a.png", "b.png"):
        with pytest.raises(UserError, match=f"no regular file: .*{name}"):
            read_image(str(tmp_path / name))
    (tmp_path / "c.png").symlink_to(tmp_path / "c.png")
    with pytest.raises(UserError, match=r"c\.png"):
        read_image(str(tmp_path / "c.png"))


def test_a_truncated_file_is_named(tmp_path):
    Image.fromarray(RAMP).save(tmp_path / "a.png")
    (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes()[:-200])
    with pytest.raises(UserError, match=r"a\.png"):
        read_image(str(tmp_path / "a.png"))


def test_dicom_is_windowed_by_its_header_and_inverted_where_it_says_so(tmp_path):
    pixels = RAMP.astype(int) * 16  # 0..4080
    dicom(tmp_path / "w.dcm", pixels, WindowCenter=2040, WindowWidth=1020, RescaleIntercept=0, RescaleSlope=1)
    got = np.asarray(read_image(str(tmp_path / "w.dcm")))[..., 0]
    assert (got[pixels < 1520] == 0).all() and (got[pixels > 2560] == 255).all()
    assert 100 < got[np.abs(pixels - 2040) < 16].mean() < 155
    dicom(tmp_path / "i.dcm", pixels, PhotometricInterpretation="MONOCHROME1", RescaleIntercept=0, RescaleSlope=1)
    inverted = np.asarray(read_image(str(tmp_path / "i.dcm")))[..., 0]
    assert inverted[0, 0] == 255 and inverted[-1, -1] == 0
    assert look(tmp_path / "w.dcm").mode == "DICOM"


def test_a_folder_of_dicom_files_is_a_data_set(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("normal", "nodule"):
        for i in range(10):
            dicom(tmp_path / name / f"{i}.dcm", rng.integers(0, 4000, (16, 16)))
    data = datasets.resolve("DICOM")(cfg_for("DICOM", tmp_path))
    assert data.classnames == ["nodule", "normal"] and (len(data.train_x), len(data.test)) == (14, 4)
    assert read_image(data.test[0].impath).size == (16, 16)
