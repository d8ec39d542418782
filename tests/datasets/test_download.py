"""Downloads: whole or not at all, with the published checksum; archives stay in their folder. No network here."""

import hashlib
import zipfile

import pytest

from cilmp.datasets.prepare import download
from cilmp.datasets.tables import TABLE
from dassl.utils.errors import UserError


@pytest.fixture
def address(tmp_path):
    (tmp_path / "far.bin").write_bytes(b"cells" * 1000)
    return (tmp_path / "far.bin").as_uri()


def test_a_file_arrives_whole_with_its_checksum(address, tmp_path):
    md5 = hashlib.md5(b"cells" * 1000).hexdigest()
    download.download(address, tmp_path / "near.bin", md5)
    assert (tmp_path / "near.bin").read_bytes() == b"cells" * 1000
    (tmp_path / "far.bin").unlink()
    download.download(address, tmp_path / "near.bin", md5)  # is there: nothing is fetched


def test_a_wrong_checksum_keeps_nothing(address, tmp_path):
    with pytest.raises(UserError, match="nothing was kept"):
        download.download(address, tmp_path / "near.bin", "0" * 32)
    assert not list(tmp_path.glob("*near*"))


def test_archives_are_unpacked_inside_their_folder_only(tmp_path):
    for name, member in (("good.zip", "a/b.png"), ("bad.zip", "../evil.png")):
        with zipfile.ZipFile(tmp_path / name, "w") as z:
            z.writestr(member, b"x")
    download.unpack(tmp_path / "good.zip", tmp_path / "out")
    assert (tmp_path / "out" / "a" / "b.png").read_bytes() == b"x"
    with pytest.raises(UserError, match="points outside"):
        download.unpack(tmp_path / "bad.zip", tmp_path / "out")
    assert not (tmp_path / "evil.png").exists()


def test_an_open_archive_ends_as_a_raw_folder(tmp_path):
    from dataclasses import replace

    with zipfile.ZipFile(tmp_path / "kvasir.zip", "w") as z:
        z.writestr("kvasir-dataset-v2/polyps/a.jpg", b"x")
    facts = replace(TABLE["KVASIR"], download=f"url:{(tmp_path / 'kvasir.zip').as_uri()}")
    folder = download.fetch(facts, tmp_path / "raw")
    assert (folder / "kvasir-dataset-v2" / "polyps" / "a.jpg").is_file()
    download.fetch(TABLE["BUSI"], tmp_path / "other", where=facts.download)
    assert (tmp_path / "other" / "kvasir-dataset-v2" / "polyps" / "a.jpg").is_file()
    with pytest.raises(UserError, match="expected zenodo"):
        download.fetch(TABLE["BUSI"], tmp_path / "other", where="ftp:x")


def test_google_drive_is_fetched_through_gdown(tmp_path, monkeypatch):
    import gdown

    def from_drive(id, output, **_):
        assert id == "abc"
        with zipfile.ZipFile(f"{output}busi.zip", "w") as z:
            z.writestr("BUSI/split_BUSI.json", "{}")
        return f"{output}busi.zip"

    monkeypatch.setattr(gdown, "download", from_drive)
    folder = download.fetch(TABLE["BUSI"], tmp_path / "raw", where="gdrive:abc")
    assert (folder / "BUSI" / "split_BUSI.json").is_file()
    monkeypatch.setattr(gdown, "download", lambda *a, **k: None)
    with pytest.raises(UserError, match="did not give the file"):
        download.fetch(TABLE["BUSI"], tmp_path / "raw", where="gdrive:abc")


def test_without_a_kaggle_token_the_page_is_named(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("KAGGLE_KEY", raising=False)
    assert download.fetch(TABLE["CTKidney"]) is None
    said = capsys.readouterr().out
    assert TABLE["CTKidney"].home in said and "licence" in said and "cilmp prepare CTKidney --raw" in said
