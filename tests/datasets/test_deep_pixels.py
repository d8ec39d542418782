"""More than 8 bits a sample, in files made by hand: each becomes the right grey levels and colours, or is refused."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from dassl.utils import read_image
from dassl.utils.errors import UserError
from dassl.utils.grey import window

RAMP = np.linspace(0, 4095, 1200).reshape(30, 40)  # 12 bits
COLOUR = np.stack([RAMP, RAMP[::-1], RAMP[:, ::-1]], axis=-1)
EIGHT = COLOUR / 4095 * 255


def tiff(path, samples, photometric=1, extra=(), order="<"):
    """An uncompressed TIFF of the samples (H, W) or (H, W, C) as they are."""
    samples = samples.astype(samples.dtype.newbyteorder(order))
    height, width = samples.shape[:2]
    channels = samples.shape[2] if samples.ndim == 3 else 1
    kind = {"u": 1, "i": 2, "f": 3}[samples.dtype.kind]
    tags = {256: [width], 257: [height], 258: [samples.dtype.itemsize * 8] * channels, 259: [1], 262: [photometric],
            273: [8], 277: [channels], 278: [height], 279: [samples.nbytes], 284: [1], 338: list(extra),
            339: [kind] * channels}
    tags = {tag: values for tag, values in tags.items() if values}
    start = 8 + samples.nbytes
    later, entries = b"", b""
    for tag, values in tags.items():
        packed = struct.pack(f"{order}{len(values)}H", *values) if max(values) < 2**16 else b""
        if len(packed) > 4:
            place = struct.pack(f"{order}I", start + 2 + 12 * len(tags) + 4 + len(later))
            later += packed
        else:
            place = packed.ljust(4, b"\0") if packed else struct.pack(f"{order}I", values[0])
        entries += struct.pack(f"{order}HHI", tag, 3 if packed else 4, len(values)) + place
    mark = b"II*\0" if order == "<" else b"MM\0*"
    path.write_bytes(mark + struct.pack(f"{order}I", start) + samples.tobytes()
                     + struct.pack(f"{order}H", len(tags)) + entries + b"\0" * 4 + later)
    return path


def png(path, samples):
    """A 16-bit PNG: grey, grey and alpha, RGB or RGBA."""
    height, width, channels = samples.shape

    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    head = struct.pack(">IIBBBBB", width, height, 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows))
                     + chunk(b"IEND", b""))
    return path


def read(path):
    image = read_image(str(path))
    assert image.mode == "RGB"
    return np.asarray(image).astype(float)


def percentiles(values):
    low, high = np.percentile(values[np.isfinite(values)], (0.5, 99.5))
    return ((values - low) / (high - low)).clip(0, 1) * 255


# ---- grey


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_float_tiff_with_a_value_that_is_no_number(bad, tmp_path):
    values = (RAMP / 4095 - 0.3).astype(np.float32)
    values[3, 5] = bad
    grey = read(tiff(tmp_path / "a.tif", values))[..., 0]
    wished = percentiles(values)
    wished[3, 5] = 255 if bad == np.inf else 0
    np.testing.assert_allclose(grey, wished, atol=1)


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_white_is_zero_is_inverted(dtype, tmp_path):
    values = RAMP.astype(dtype)
    plain, inverted = (read(tiff(tmp_path / f"{p}.tif", values, photometric=p)) for p in (1, 0))
    assert plain[0, 0, 0] == 0 and plain[-1, -1, 0] == 255
    np.testing.assert_allclose(inverted, 255 - plain, atol=1)


def test_eight_bits_where_white_is_zero_are_inverted_once(tmp_path):
    values = (RAMP / 4095 * 255).astype(np.uint8)
    assert (read(tiff(tmp_path / "a.tif", values, photometric=0))[..., 0] == 255 - values).all()


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("dtype", [np.uint16, np.int16, np.int32, np.float32])
def test_every_kind_of_grey_tiff(dtype, order, tmp_path):
    values = (RAMP - (0 if dtype == np.uint16 else 900)).astype(dtype)
    np.testing.assert_allclose(read(tiff(tmp_path / "a.tif", values, order=order))[..., 0], percentiles(values), atol=1)


@pytest.mark.parametrize("value, dtype, level", [
    (32768, np.uint16, 128), (0, np.uint16, 0), (0.5, np.float32, 128), (np.nan, np.float32, 0)])
def test_an_even_image(value, dtype, level, tmp_path):
    assert (read(tiff(tmp_path / "a.tif", np.full((8, 8), value, dtype))) == level).all()


def test_a_few_bright_dots_on_an_even_ground_keep_their_levels():
    values = np.zeros((100, 100))
    values[0, :3] = 1, 2, 4
    assert window(values)[0, :4].tolist() == [64, 128, 255, 0]


# ---- colour


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("top", [4095, 65535])
def test_sixteen_bit_colours_of_a_tiff_by_the_depth_they_fill(top, order, tmp_path):
    samples = np.rint(COLOUR / 4095 * top).astype(np.uint16)
    np.testing.assert_allclose(read(tiff(tmp_path / "a.tif", samples, photometric=2, order=order)), EIGHT, atol=1)


def test_compressed_tiff(tmp_path):
    imwrite = pytest.importorskip("tifffile").imwrite
    imwrite(tmp_path / "a.tif", COLOUR.astype(np.uint16), photometric="rgb", compression="zlib", predictor=True)
    np.testing.assert_allclose(read(tmp_path / "a.tif"), EIGHT, atol=1)


@pytest.mark.parametrize("top", [4095, 65535])
def test_sixteen_bit_colours_of_a_png(top, tmp_path):
    samples = np.rint(COLOUR / 4095 * top).astype(np.uint16)
    np.testing.assert_allclose(read(png(tmp_path / "a.png", samples)), EIGHT, atol=1)
    alpha = np.full((30, 40, 1), 65535, np.uint16)
    alpha[:10] = 0
    image = read(png(tmp_path / "b.png", np.concatenate([samples, alpha], axis=-1)))
    np.testing.assert_allclose(image[10:], EIGHT[10:], atol=1)
    assert not image[:10].any(), "transparent is black"


def test_eight_bits_in_sixteen_are_as_they_are(tmp_path):
    samples = np.rint(EIGHT).astype(np.uint16)
    assert (read(png(tmp_path / "a.png", samples)) == samples).all()


def test_sixteen_bit_grey_with_alpha_is_windowed_where_it_is_seen(tmp_path):
    grey, alpha = RAMP.copy(), np.full((30, 40), 65535)
    grey[:10], alpha[:10] = 65535, 0
    image = read(png(tmp_path / "a.png", np.stack([grey, alpha], axis=-1).astype(np.uint16)))
    np.testing.assert_allclose(image[10:, :, 0], percentiles(RAMP[10:].astype(np.uint16)), atol=1)
    assert not image[:10].any()


def test_a_turned_tiff_of_deep_colours_is_upright(tmp_path):
    samples = COLOUR.astype(np.uint16)
    tiff(tmp_path / "a.tif", samples, photometric=2)
    content = bytearray((tmp_path / "a.tif").read_bytes())
    at = content.rindex(struct.pack("<HHI", 284, 3, 1))  # planar configuration (1 is the default) becomes orientation
    content[at:at + 12] = struct.pack("<HHIHH", 274, 3, 1, 6, 0)
    (tmp_path / "b.tif").write_bytes(content)
    np.testing.assert_allclose(read(tmp_path / "b.tif"), np.rot90(EIGHT, -1), atol=1)


# ---- refused


@pytest.mark.parametrize("samples, photometric", [
    (COLOUR.astype(np.float32), 2), (COLOUR.astype(np.uint32), 2), (RAMP, 1), (RAMP.astype(np.float16), 1)])
def test_what_pillow_cannot_read_is_refused_in_one_line(samples, photometric, tmp_path):
    with pytest.raises(UserError) as error:
        read(tiff(tmp_path / "a.tif", samples, photometric))
    assert "a.tif" in str(error.value) and "\n" not in str(error.value)


def test_deep_colours_in_planes_are_refused(tmp_path):
    imwrite = pytest.importorskip("tifffile").imwrite
    imwrite(tmp_path / "a.tif", np.moveaxis(COLOUR, -1, 0).astype(np.uint16), photometric="rgb",
            planarconfig="separate")
    with pytest.raises(UserError, match="not RGB pixel by pixel"):
        read(tmp_path / "a.tif")


def test_ordinary_images_are_untouched(tmp_path):
    samples = np.rint(EIGHT).astype(np.uint8)
    for name in ("a.tif", "a.png", "a.bmp"):
        Image.fromarray(samples).save(tmp_path / name)
        assert (read(tmp_path / name) == samples).all()
    cmyk = Image.fromarray(samples).convert("CMYK")
    cmyk.save(tmp_path / "c.tif", compression="tiff_lzw", tiffinfo=TiffImagePlugin.ImageFileDirectory_v2())
    assert (read(tmp_path / "c.tif") == np.asarray(cmyk.convert("RGB"))).all()
