"""`cilmp predict`: what it is pointed at, what it writes, what it says of what it can't read."""

import csv
import json
import shutil
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

import cilmp
from cilmp.__main__ import main
from cilmp.inference.inputs import files_of
from cilmp.tests.inference.runs import NAMES, finished_run
from dassl.utils.errors import MissingFile, UserError


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """(folder of a finished CoOp run, its test images)."""
    folder, paths, _ = finished_run("CoOp", tmp_path_factory.mktemp("run"))
    return str(folder), paths


def png_header(width, height):
    """A PNG of that size by its header, with hardly a pixel in it."""
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


def dicom(path, pixels=True, frames=1):
    import pydicom
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage

    data = pydicom.Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    if pixels:
        data.Rows = data.Columns = 24
        data.SamplesPerPixel, data.PhotometricInterpretation, data.PixelRepresentation = 1, "MONOCHROME2", 0
        data.BitsAllocated = data.BitsStored = 8
        data.HighBit, data.NumberOfFrames = 7, frames
        data.PixelData = np.arange(24 * 24 * frames, dtype=np.uint8).tobytes()
    data.save_as(path, enforce_file_format=True)


def test_csv_json_and_json_lines_say_the_same(run, tmp_path, capsys):
    folder, paths = run
    outs = [tmp_path / f"o.{ending}" for ending in ("csv", "json", "jsonl")]
    for out in outs:
        assert main(["predict", folder, *paths, "--out", str(out)]) == 0
    wanted = cilmp.load(folder).predict_proba(paths)
    rows = list(csv.DictReader(outs[0].open()))
    whole, lines = json.loads(outs[1].read_text()), [json.loads(line) for line in outs[2].read_text().splitlines()]
    assert whole["predictions"] == lines and whole["classes"] == NAMES and whole["skipped"] == []
    for row, line, path, p in zip(rows, lines, paths, wanted, strict=True):
        assert row["image"] == line["image"] == path and row["prediction"] == line["prediction"] == NAMES[p.argmax()]
        assert float(row["probability"]) == line["probability"] == pytest.approx(p.max(), abs=1e-6)
        assert [line[f"p({name})"] for name in NAMES] == pytest.approx(p.tolist(), abs=1e-6)
    table = cilmp.load(folder).table(paths)
    assert list(table.index) == paths and table["prediction"].tolist() == [line["prediction"] for line in lines]


def test_folders_and_tables(run, tmp_path, capsys):
    folder, paths = run
    (tmp_path / "in" / "deep").mkdir(parents=True)
    shutil.copy(paths[0], tmp_path / "in" / "b.png")
    shutil.copy(paths[1], tmp_path / "in" / "deep" / "no_ending")
    dicom(tmp_path / "in" / "scan")
    (tmp_path / "in" / "readme.txt").write_text("these are images")
    (tmp_path / "in" / ".hidden.png").write_text("")
    (tmp_path / "rows.csv").write_text("id,Image Path\n1,in/b.png\n2,in/scan\n")
    found = files_of([str(tmp_path / "in")])
    assert [f[len(str(tmp_path)) + 1 :] for f in found] == ["in/b.png", "in/deep/no_ending", "in/scan"]
    assert files_of([str(tmp_path / "rows.csv")]) == [str(tmp_path / "in" / "b.png"), str(tmp_path / "in" / "scan")]
    assert main(["predict", folder, str(tmp_path / "in"), str(tmp_path / "rows.csv")]) == 0
    assert capsys.readouterr().out.count(str(tmp_path / "in")) == 5


BROKEN = {
    "empty.png": lambda p: p.write_bytes(b""),
    "text.png": lambda p: p.write_text("not an image"),
    "film.mp4": lambda p: p.write_bytes(b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom" + bytes(64)),
    "huge.png": lambda p: p.write_bytes(png_header(30_000, 30_000)),
    "cut.png": lambda p: p.write_bytes(png_header(24, 24)),
    "report.dcm": lambda p: dicom(p, pixels=False),
    "loop.dcm": lambda p: dicom(p, frames=3),
}


def test_what_cannot_be_read_is_named_and_skipped(run, tmp_path, capsys):
    folder, paths = run
    for name, write in BROKEN.items():
        write(tmp_path / name)
    broken = [str(tmp_path / name) for name in BROKEN]
    out = tmp_path / "out.json"
    assert main(["predict", folder, *broken, paths[0], "--out", str(out)]) == 3
    said = capsys.readouterr().err.splitlines()
    whole = json.loads(out.read_text())
    assert [row["image"] for row in whole["skipped"]] == broken and len(whole["predictions"]) == 1
    for path, words in zip(broken, ["no format", "no format", "no format", "900000000 pixels", "", "", "3 frames"]):
        (line,) = [line for line in said if path in line]
        assert line.startswith("skipped: ") and words in line and "ON_BAD_IMAGE" not in line, line
    assert main(["predict", folder, *broken, "--out", str(tmp_path / "none.csv")]) == 3
    assert "none of the 7 images" in capsys.readouterr().err and not (tmp_path / "none.csv").exists()
    with pytest.raises(UserError, match=r"empty\.png"):
        cilmp.load(folder).predict([paths[0], broken[0]])


def test_of_several_pages_the_first_is_said(run, tmp_path, capsys):
    first, second = (Image.new("RGB", (20, 20), colour) for colour in ("red", "blue"))
    first.save(tmp_path / "pages.tif", save_all=True, append_images=[second])
    first.save(tmp_path / "one.png")
    assert main(["predict", run[0], str(tmp_path / "pages.tif")]) == 0
    assert "pages.tif has 2 pages: the first is used" in capsys.readouterr().err
    two = cilmp.load(run[0]).predict_proba([tmp_path / "pages.tif", tmp_path / "one.png"])
    assert np.allclose(two[0], two[1], atol=1e-6)  # the second page is blue


def test_a_frame_is_named(run, tmp_path, capsys):
    """On the command line and in a table; the frames of dicom() differ."""
    dicom(tmp_path / "loop.dcm", frames=3)
    frames = [str(tmp_path / f"loop.dcm::{i}") for i in (1, 3)]
    (tmp_path / "rows.csv").write_text("path\nloop.dcm::1\nloop.dcm::3\n")
    assert files_of(frames) == files_of([str(tmp_path / "rows.csv")]) == frames
    assert main(["predict", run[0], *frames, "--out", str(tmp_path / "out.json")]) == 0
    rows = json.loads((tmp_path / "out.json").read_text())["predictions"]
    values = np.arange(24 * 24 * 3, dtype=np.uint8).reshape(3, 24, 24)
    wanted = cilmp.load(run[0]).predict_proba([values[0], values[2]])
    assert np.allclose([[row[f"p({name})"] for name in NAMES] for row in rows], wanted, atol=1e-6)
    assert main(["predict", run[0], str(tmp_path / "loop.dcm::4")]) == 3
    assert "loop.dcm has no frame 4: it has frames 1 to 3" in capsys.readouterr().err
    with pytest.raises(UserError, match="no image, folder or table"):
        files_of([str(tmp_path / "gone.dcm::4")])


def test_cells_that_a_spreadsheet_would_run(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(run[1][0], "=cmd.png")
    assert main(["predict", run[0], "=cmd.png", "--out", "o.csv"]) == 0
    assert (tmp_path / "o.csv").read_text().splitlines()[1].startswith("'=cmd.png,")


@pytest.mark.parametrize("words, said", [
    (["gone.png"], "no image, folder or table gone.png"),
    (["empty"], "empty holds no image"),
    (["nohead.csv"], "no column 'image', its first line has a.png, 0: name the columns there"),
    (["head.csv"], "no row below its first line"),
    (["head.csv", "--column", "wing"], "no column 'wing'"),
    (["a.png", "--out", "o.xlsx"], "its ending says the form, choose .csv"),
    (["a.png", "--batch-size", "0"], "--batch-size 0"),
])  # fmt: skip
def test_one_line_each(run, words, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "nohead.csv").write_text("a.png,0\nb.png,1\n")
    (tmp_path / "head.csv").write_text("image,label\n")
    shutil.copy(run[1][0], "a.png")
    with pytest.raises(UserError) as error:
        main(["predict", run[0], *words])
    assert said in str(error.value) and "\n" not in str(error.value)
    assert not list(tmp_path.glob("o.*"))


def test_what_is_no_run(tmp_path):
    for folder in ("gone", "empty", "begun", "above/below"):
        (tmp_path / folder).mkdir(parents=True) if folder != "gone" else None
    (tmp_path / "begun" / "config.yaml").write_text("")
    (tmp_path / "above" / "below" / "results.json").write_text('{"schema": 1}')
    lines = {
        "gone": "no such run or bundle", "empty": "neither a finished run nor a bundle", "begun": "has not finished",
        "above": "1 below it: name one, e.g.", "above/below": "of another version of the toolbox",
    }  # fmt: skip
    for folder, said in lines.items():
        with pytest.raises((MissingFile, UserError), match=said):
            cilmp.load(tmp_path / folder)
