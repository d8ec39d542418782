"""DICOM files as their header says they are shown: hand-computed values, and pydicom's pipeline on its own files."""

from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.data import get_testdata_file
from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_voi_lut, pixel_array

from cilmp.tests.datasets.dicom_files import dataset, film, palette, voi_lut, write
from dassl.utils import read_image
from dassl.utils.dicom import frames
from dassl.utils.errors import MissingFile, UserError
from dassl.utils.images import image_hash

STEPS = np.array([[0, 500, 1000, 1500], [2000, 2500, 3000, 4095]])


def shown(path):
    """(H, W) of an image whose channels are equal."""
    image = np.asarray(read_image(str(path))).astype(int)
    assert (image == image[..., :1]).all()
    return image[..., 0]


def linear(values, centre, width):
    """PS3.3 C.11.2.1.2.1 with an output of 0..255."""
    return np.floor((((values - (centre - 0.5)) / (width - 1) + 0.5) * 255).clip(0, 255) + 0.5)


# ---- grey, hand-computed


@pytest.mark.parametrize("centre, width", [(2048, 4096), (1500, 1000), (2000, 8000), (-500, 400), (9000, 100)])
def test_a_window_is_mapped_by_its_own_range_not_by_the_datas(centre, width, tmp_path):
    path = write(tmp_path / "a", STEPS, bits=12, WindowCenter=centre, WindowWidth=width)
    np.testing.assert_allclose(shown(path), linear(STEPS, centre, width), atol=1)


def test_a_wide_window_keeps_a_dull_film_dull(tmp_path):
    path = write(tmp_path / "a", STEPS // 8 + 1500, bits=12, WindowCenter=2048, WindowWidth=4096)
    assert (shown(path).min(), shown(path).max()) == (93, 125)


@pytest.mark.parametrize("function, values", [
    ("LINEAR_EXACT", [[0, 0, 0, 64], [128, 191, 255, 255]]),
    ("SIGMOID", [[5, 12, 30, 69], [128, 186, 225, 251]])])
def test_the_other_window_functions(function, values, tmp_path):
    path = write(tmp_path / "a", STEPS, bits=12, WindowCenter=2000, WindowWidth=2000, VOILUTFunction=function)
    np.testing.assert_allclose(shown(path), values, atol=1)


def test_the_window_is_of_rescaled_values_and_the_first_of_several(tmp_path):
    path = write(tmp_path / "a", STEPS, bits=12, RescaleSlope=2, RescaleIntercept=-1024,
                 WindowCenter=[40, 2000], WindowWidth=[400, 4000])
    np.testing.assert_allclose(shown(path), linear(STEPS * 2 - 1024, 40, 400), atol=1)
    falling = write(tmp_path / "b", STEPS, bits=12, RescaleSlope=-1, RescaleIntercept=4095,
                    WindowCenter=2048, WindowWidth=4096)
    np.testing.assert_allclose(shown(falling), linear(4095 - STEPS, 2048, 4096), atol=1)


@pytest.mark.parametrize("tags, times", [
    ({}, 0), ({"PresentationLUTShape": "IDENTITY"}, 0), ({"PresentationLUTShape": "INVERSE"}, 1),
    ({"PhotometricInterpretation": "MONOCHROME1"}, 1),
    ({"PhotometricInterpretation": "MONOCHROME1", "PresentationLUTShape": "INVERSE"}, 1)])
@pytest.mark.parametrize("window", [{}, {"WindowCenter": 2048, "WindowWidth": 4096}])
def test_inverted_once(tags, times, window, tmp_path):
    grey = shown(write(tmp_path / "a", STEPS, bits=12, **window, **tags))
    assert (grey[0, 0], grey[-1, -1]) == ((255, 0) if times else (0, 255))


@pytest.mark.parametrize("tags", [{}, {"PhotometricInterpretation": "MONOCHROME1"},
                                  {"WindowCenter": 2048, "WindowWidth": 4096}])
@pytest.mark.parametrize("signed, padding", [(False, 60000), (True, -2000)])
def test_padding_is_black_and_moves_no_grey_level(tags, signed, padding, tmp_path):
    pixels = np.arange(1000, 2600).reshape(40, 40)
    plain = shown(write(tmp_path / "plain", pixels, signed=signed, **tags))
    around = np.pad(pixels, 12, constant_values=padding)
    path = write(tmp_path / "padded", around, signed=signed, **tags)
    data = pydicom.dcmread(path)
    data.add_new("PixelPaddingValue", "SS" if signed else "US", padding)
    data.save_as(path)
    grey = shown(path)
    assert (grey[12:-12, 12:-12] == plain).all() and not grey[:12].any() and not grey[:, :12].any()


def test_a_range_of_padding(tmp_path):
    pixels = np.arange(1000, 2600).reshape(40, 40)
    around = np.pad(pixels, 2, constant_values=65000)
    around[0] = 64000
    grey = shown(write(tmp_path / "a", around, PixelPaddingValue=65000, PixelPaddingRangeLimit=63999))
    assert not grey[:2].any() and grey[2:-2, 2:-2].max() == 255


@pytest.mark.parametrize("bits, tags, level", [
    (12, {}, 125), (8, {}, 77), (12, {"WindowCenter": 2048, "WindowWidth": 4096}, 125),
    (12, {"PhotometricInterpretation": "MONOCHROME1"}, 130)])
def test_an_even_image_is_not_black(bits, tags, level, tmp_path):
    value = 2000 if bits == 12 else 77
    assert (shown(write(tmp_path / "a", np.full((8, 8), value), bits=bits, **tags)) == level).all()


def test_eight_bits_without_a_window_are_as_they_are(tmp_path):
    pixels = np.arange(60, 160).reshape(10, 10)
    assert (shown(write(tmp_path / "a", pixels, bits=8)) == pixels).all()


@pytest.mark.parametrize("empty", [{"WindowCenter": None, "WindowWidth": None}, {"WindowCenter": 5, "WindowWidth": 0},
                                   {"RescaleSlope": None, "RescaleIntercept": None}])
def test_a_tag_without_meaning_is_none(empty, tmp_path):
    assert (shown(write(tmp_path / "a", STEPS, bits=12, **empty)) == shown(write(tmp_path / "b", STEPS, bits=12))).all()


def test_a_voi_lut_is_looked_up_and_wins_over_the_window(tmp_path):
    table = np.minimum(np.arange(4096) // 8, 255)
    path = write(tmp_path / "a", STEPS, bits=12, VOILUTSequence=voi_lut(table), WindowCenter=5, WindowWidth=9)
    assert (shown(path) == table[STEPS]).all()
    path = write(tmp_path / "b", STEPS, bits=12, RescaleSlope=1, RescaleIntercept=-100,
                 VOILUTSequence=voi_lut(table * 257, first=0, bits=16))
    np.testing.assert_allclose(shown(path), table[(STEPS - 100).clip(0)], atol=1)


# ---- colour, hand-computed

COLOURS = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [200, 100, 50]])


@pytest.mark.parametrize("bits", [8, 16])
def test_a_palette_is_looked_up(bits, tmp_path):
    index = np.array([[0, 1], [2, 3]])
    path = write(tmp_path / "a", index, bits=8, **palette(COLOURS * (257 if bits == 16 else 1), bits))
    assert (np.asarray(read_image(str(path))) == COLOURS[index]).all()
    path = write(tmp_path / "b", index + 299, bits=16, **palette(COLOURS, 8, first=300))
    wished = COLOURS[np.array([[0, 0], [1, 2]])]
    assert (np.asarray(read_image(str(path))) == wished).all(), "what lies outside has the nearest entry"


def test_ybr_becomes_rgb_and_twelve_bits_fill_eight(tmp_path):
    ybr = np.broadcast_to(np.array([76, 85, 255]), (4, 4, 3))  # pure red
    red = np.asarray(read_image(str(write(tmp_path / "a", ybr, bits=8, PhotometricInterpretation="YBR_FULL"))))
    np.testing.assert_allclose(red[0, 0].astype(int), [254, 0, 0], atol=2)
    deep = np.broadcast_to(np.array([4095, 2048, 0]), (4, 4, 3))
    image = np.asarray(read_image(str(write(tmp_path / "b", deep, bits=12))))
    np.testing.assert_allclose(image[0, 0].astype(int), [255, 128, 0], atol=1)


# ---- several frames


def groups(slope=None, center=None):
    """What an enhanced object says of all frames, or of one."""
    group = pydicom.Dataset()
    if slope is not None:
        item = pydicom.Dataset()
        item.RescaleSlope, item.RescaleIntercept, item.RescaleType = slope, 0, "US"
        group.PixelValueTransformationSequence = [item]
    if center is not None:
        item = pydicom.Dataset()
        item.WindowCenter, item.WindowWidth, item.VOILUTFunction = center, 1000, "LINEAR_EXACT"
        group.FrameVOILUTSequence = [item]
    return group


@pytest.mark.parametrize("tagged", [True, False])
@pytest.mark.parametrize("shape", [(3, 8, 6), (3, 8, 6, 3), (3, 8, 3), (4, 3, 8)])
def test_a_frame_is_named_from_one(tmp_path, shape, tagged):
    """As the file of that frame alone is read, whether the header tells how many there are or only their length."""
    several = np.random.default_rng(0).integers(0, 256, shape)
    path = film(tmp_path / "loop.dcm", several, bits=8, tagged=tagged)
    for i, frame in enumerate(several):
        alone = read_image(str(write(tmp_path / "alone", frame, bits=8)))
        assert np.array_equal(read_image(f"{path}::{i + 1}"), alone)
    said = refused(path)
    assert f"holds {shape[0]} frames" in said and "loop.dcm::1" in said
    for wrong in (0, shape[0] + 1):
        with pytest.raises(UserError, match=f"no frame {wrong}: it has frames 1 to {shape[0]}"):
            read_image(f"{path}::{wrong}")


def test_frames_are_inverted_where_the_header_says_so(tmp_path):
    several = np.stack([np.full((4, 4), 10), np.full((4, 4), 200)])
    path = film(tmp_path / "xa", several, bits=8, PhotometricInterpretation="MONOCHROME1")
    assert [np.asarray(read_image(f"{path}::{i}")).max() for i in (1, 2)] == [245, 55]


def test_a_frame_of_a_compressed_film():
    path = get_testdata_file("examples_ybr_color.dcm")
    first, last = (np.asarray(read_image(f"{path}::{i}")) for i in (1, 30))
    whole = pixel_array(pydicom.dcmread(path))
    assert np.array_equal(first, whole[0]) and np.array_equal(last, whole[29]) and not np.array_equal(first, last)


def test_an_enhanced_object_has_window_and_slope_by_frame(tmp_path):
    """Those of the frame before those of all: 2 x - 500 and 2 x - 1500 of 1000, onto 0..255."""
    values = np.broadcast_to(np.array([300, 500, 900]), (2, 4, 3))
    path = film(tmp_path / "us.dcm", values, SharedFunctionalGroupsSequence=[groups(2, center=500)],
                PerFrameFunctionalGroupsSequence=[groups(), groups(center=1500)])  # fmt: skip
    wanted = {1: [153, 255, 255], 2: [0, 0, 204]}
    for frame, row in wanted.items():
        assert np.asarray(read_image(f"{path}::{frame}"))[0, :, 0].tolist() == pytest.approx(row, abs=1)
    one = film(tmp_path / "one.dcm", values[:1], SharedFunctionalGroupsSequence=[groups(2, center=500)],
               PerFrameFunctionalGroupsSequence=[groups()])  # fmt: skip
    assert np.asarray(read_image(one))[0, :, 0].tolist() == pytest.approx(wanted[1], abs=1)


def test_a_number_of_frames_that_is_none_is_one_line(tmp_path):
    path = write(tmp_path / "odd", np.zeros((4, 4)), bits=8, NumberOfFrames=["1", "2"])
    assert frames(path) == 1 and "unreadable image" in refused(path)


def test_only_dicom_has_frames_to_name(tmp_path):
    Image.new("L", (4, 4), 9).save(tmp_path / "a.png")
    with pytest.raises(UserError, match=r"a\.png is no DICOM file: it has no frame 2"):
        read_image(str(tmp_path / "a.png::2"))
    with pytest.raises(MissingFile, match=r"no image at .*gone\.dcm::2"):
        read_image(str(tmp_path / "gone.dcm::2"))
    (tmp_path / "a.png").rename(tmp_path / "a.png::2")
    assert np.asarray(read_image(str(tmp_path / "a.png::2"))).max() == 9


def test_the_hash_of_a_frame(tmp_path):
    path = film(tmp_path / "loop.dcm", np.arange(3 * 16).reshape(3, 4, 4), bits=8)
    assert image_hash(f"{path}::1") == image_hash(f"{path}::1") != image_hash(f"{path}::2")


# ---- what is refused in one line


def refused(path):
    with pytest.raises(UserError) as error:
        read_image(str(path))
    assert "\n" not in str(error.value) and str(path) in str(error.value)
    return str(error.value)


def test_refused(tmp_path):
    several = dataset(np.zeros((30, 4)), NumberOfFrames=3, Rows=10)
    several.save_as(tmp_path / "frames", enforce_file_format=True)
    assert "holds 3 frames" in refused(tmp_path / "frames")
    assert "photometric interpretation HSV" in refused(
        write(tmp_path / "hsv", np.zeros((4, 4, 3)), bits=8, PhotometricInterpretation="HSV"))
    assert "holds 30 frames" in refused(get_testdata_file("examples_ybr_color.dcm"))
    assert "ValueError" in refused(get_testdata_file("MR_truncated.dcm"))
    assert "pip install" in refused(get_testdata_file("JPEGLSNearLossless_08.dcm"))


# ---- pydicom's own files, by pydicom's own pipeline

FOLDER = Path(get_testdata_file("CT_small.dcm")).parent
WINDOWED = ["693_J2KI.dcm", "J2K_pixelrep_mismatch.dcm", "MR_small.dcm", "MR_small_RLE.dcm", "MR_small_bigendian.dcm",
            "MR_small_implicit.dcm", "examples_overlay.dcm",
            *(str(p.relative_to(FOLDER)) for p in sorted(FOLDER.glob("dicomdirtests/[79]*/*/*")))]


@pytest.mark.parametrize("name", WINDOWED)
def test_windows_of_shipped_files(name):
    data = pydicom.dcmread(FOLDER / name)
    if "WindowWidth" not in data:
        pytest.skip("no window")
    shown_by_pydicom = apply_voi_lut(apply_modality_lut(data.pixel_array, data), data)
    bits, signed = data.BitsStored, data.PixelRepresentation
    ends = np.array([-(2 ** (bits - 1)), 2 ** (bits - 1) - 1] if signed else [0, 2**bits - 1])
    low, high = apply_modality_lut(ends, data)
    wished = (shown_by_pydicom - low) / (high - low) * 255
    if data.PhotometricInterpretation == "MONOCHROME1":
        wished = 255 - wished
    if "PixelPaddingValue" in data:
        wished[data.pixel_array == data.PixelPaddingValue] = 0
    np.testing.assert_allclose(shown(FOLDER / name), wished, atol=1)


@pytest.mark.parametrize("name", ["CT_small.dcm", "rtdose_1frame.dcm"])
def test_shipped_files_without_a_window_are_seen_by_their_percentiles(name):
    data = pydicom.dcmread(FOLDER / name)
    values = data.pixel_array.astype(float)
    low, high = np.percentile(values, (0.5, 99.5))
    np.testing.assert_allclose(shown(FOLDER / name), ((values - low) / (high - low)).clip(0, 1) * 255, atol=1)


@pytest.mark.parametrize("name", [
    "examples_rgb_color.dcm", "examples_jpeg2k.dcm", "SC_rgb_dcmtk_+eb+cr.dcm", "SC_rgb_dcmtk_+eb+cy+n1.dcm",
    "SC_rgb_dcmtk_+eb+cy+np.dcm", "SC_rgb_dcmtk_+eb+cy+s4.dcm", "SC_ybr_full_422_uncompressed.dcm", "SC_rgb_rle.dcm",
    "SC_rgb_small_odd.dcm", "SC_rgb_small_odd_big_endian.dcm", "SC_rgb_gdcm_KY.dcm", "ExplVR_BigEnd.dcm"])
def test_colours_of_shipped_files(name):
    path = FOLDER / name
    assert (np.asarray(read_image(str(path))) == pixel_array(path)).all()


def test_sixteen_bit_colours_and_the_palette_of_shipped_files():
    for name, top in (("SC_rgb_rle_16bit.dcm", 2**16 - 1), ("SC_rgb_rle_32bit.dcm", 2**32 - 1)):
        wished = pixel_array(FOLDER / name) / top * 255
        np.testing.assert_allclose(np.asarray(read_image(str(FOLDER / name))).astype(float), wished, atol=0.51)
    data = pydicom.dcmread(FOLDER / "examples_palette.dcm")
    table = apply_color_lut(data.pixel_array, data).astype(float)
    bits = data.RedPaletteColorLookupTableDescriptor[2]
    image = np.asarray(read_image(str(FOLDER / "examples_palette.dcm"))).astype(float)
    np.testing.assert_allclose(image, table / (2**bits - 1) * 255, atol=0.51)
    assert (image != image[..., :1]).any()


@pytest.mark.parametrize("name", ["image_dfl.dcm", "liver_1frame.dcm"])
def test_eight_bits_and_one_bit_of_shipped_files(name):
    data = pydicom.dcmread(FOLDER / name)
    assert (shown(FOLDER / name) == data.pixel_array * (1 if data.BitsStored == 8 else 255)).all()


# ---- by content


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2", "1.2.840.10008.1.2.1"])
def test_a_bare_data_set_without_file_meta_is_read(syntax, tmp_path):
    data = dataset(STEPS, bits=12, WindowCenter=2048, WindowWidth=4096)
    del data.file_meta
    implicit = syntax.endswith("1.2")
    data.save_as(tmp_path / "MR0001.IMA", implicit_vr=implicit, little_endian=True, enforce_file_format=False)
    assert (tmp_path / "MR0001.IMA").read_bytes()[128:132] != b"DICM"
    np.testing.assert_allclose(shown(tmp_path / "MR0001.IMA"), linear(STEPS, 2048, 4096), atol=1)
