"""Downloads: whole or not at all, with the published checksum; archives stay in their folder. No network here."""

import hashlib
import json
import zipfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from cilmp.datasets.prepare import download
from cilmp.datasets.tables import TABLE
from dassl.utils.errors import UserError


class Site(SimpleHTTPRequestHandler):
    """Serves the folder; `cut.bin` breaks off after half of what it announces."""

    def do_GET(self):
        if self.path != "/cut.bin":
            return super().do_GET()
        self.send_response(200)
        self.send_header("Content-Length", "2000")
        self.end_headers()
        self.wfile.write(b"x" * 1000)

    def log_message(self, *words):
        pass


@pytest.fixture
def site(tmp_path):
    """(folder, its address)."""
    folder = tmp_path / "site"
    folder.mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Site, directory=folder))
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield folder, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def address(site):
    folder, url = site
    (folder / "far.bin").write_bytes(b"cells" * 1000)
    return f"{url}/far.bin"


def test_a_file_arrives_whole_with_its_checksum(site, address, tmp_path):
    md5 = hashlib.md5(b"cells" * 1000).hexdigest()
    download.download(address, tmp_path / "near.bin", md5)
    assert (tmp_path / "near.bin").read_bytes() == b"cells" * 1000
    (site[0] / "far.bin").unlink()
    download.download(address, tmp_path / "near.bin", md5)  # is there: nothing is fetched


def test_a_wrong_checksum_keeps_nothing(address, tmp_path):
    with pytest.raises(UserError, match="nothing was kept"):
        download.download(address, tmp_path / "near.bin", "0" * 32)
    assert [path.name for path in tmp_path.iterdir()] == ["site"]


@pytest.mark.parametrize("name", ["cut.bin", "none.bin"])
def test_a_broken_download_is_one_line_and_keeps_nothing(site, tmp_path, name):
    with pytest.raises(UserError, match=rf"{name}.*nothing was kept") as error:
        download.download(f"{site[1]}/{name}", tmp_path / name)
    assert "\n" not in str(error.value) and [path.name for path in tmp_path.iterdir()] == ["site"]


def test_a_record_of_zenodo(site, tmp_path, monkeypatch):
    """Every file with the checksum of the record; of MedMNIST only the set's own, in its large form."""
    folder, url = site
    files = {"busi_64.npz": b"small", "breastmnist_224.npz": b"large"}
    for name, content in files.items():
        (folder / name).write_bytes(content)
    listing = [{"key": name, "checksum": f"md5:{hashlib.md5(content).hexdigest()}", "links": {"self": f"{url}/{name}"}}
               for name, content in files.items()]  # fmt: skip
    (folder / "7").write_text(json.dumps({"files": listing}))
    monkeypatch.setattr(download, "ZENODO", f"{url}/{{}}")
    facts = next(TABLE[name] for name in TABLE.sets() if TABLE[name].flag == "breastmnist")
    assert sorted(p.name for p in download.fetch(facts, tmp_path / "one", "zenodo:7").iterdir()) == list(files)[1:]
    every = download.fetch(TABLE["KVASIR"], tmp_path / "all", "zenodo:7")
    assert sorted(p.name for p in every.iterdir()) == sorted(files)
    with pytest.raises(UserError, match="zenodo:8"):
        download.fetch(facts, tmp_path / "none", "zenodo:8")


def test_archives_are_unpacked_inside_their_folder_only(tmp_path):
    for name, member in (("good.zip", "a/b.png"), ("bad.zip", "../evil.png")):
        with zipfile.ZipFile(tmp_path / name, "w") as z:
            z.writestr(member, b"x")
    download.unpack(tmp_path / "good.zip", tmp_path / "out")
    assert (tmp_path / "out" / "a" / "b.png").read_bytes() == b"x"
    with pytest.raises(UserError, match="points outside"):
        download.unpack(tmp_path / "bad.zip", tmp_path / "out")
    assert not (tmp_path / "evil.png").exists()


def test_an_open_archive_ends_as_a_raw_folder(site, tmp_path):
    from dataclasses import replace

    with zipfile.ZipFile(site[0] / "kvasir.zip", "w") as z:
        z.writestr("kvasir-dataset-v2/polyps/a.jpg", b"x")
    facts = replace(TABLE["KVASIR"], download=f"url:{site[1]}/kvasir.zip")
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
