"""Fetching a set that is openly there, with its checksum where one is published; else: the page and what to click."""

import json
import os
import shutil
import urllib.request
import zipfile
from pathlib import Path

from dassl.utils.errors import UserError
from dassl.utils.io import atomic_path
from dassl.utils.paths import cache_root

ZENODO = "https://zenodo.org/api/records/{}"


def fetch(facts, raw=None, where=""):
    """The folder with the raw files of a set (downloaded into `raw`, default <cache>/raw/<set>), or None after
    saying where to get it. `where` (zenodo:, kaggle:, gdrive:, url:) replaces the known address."""
    if facts is None:
        raise UserError("--download is for public sets; your own images are given with --raw")
    folder = Path(raw).expanduser() if raw else cache_root() / "raw" / facts.layouts[0].folder
    kind, _, what = (where or facts.download).partition(":")
    if kind == "kaggle" and not kaggle_ready():
        kind = ""
    steps = {"zenodo": _zenodo, "kaggle": _kaggle, "gdrive": _gdrive, "url": _url}
    if where and kind not in steps and not where.startswith("kaggle:"):
        raise UserError(f"--download {where!r}: expected {', '.join(f'{k}:...' for k in steps)}")
    print(f"{facts.name}: {facts.home}\nlicence: {facts.licence}")
    if kind not in steps:
        print(how_to(facts))
        return None
    folder.mkdir(parents=True, exist_ok=True)
    return steps[kind](what, folder, facts)


def how_to(facts):
    """What a person does where no open address is known or no Kaggle token is there."""
    click = facts.click or "'Download' on the page (a Kaggle account; with a token in ~/.kaggle and " \
                           "`pip install kagglehub`, --download does it)"
    return f"by hand: {click}; unpack it, then: cilmp prepare {facts.name} --raw FOLDER"


def kaggle_ready():
    """Whether kagglehub is installed and a token is where it looks."""
    from importlib.util import find_spec

    token = (Path.home() / ".kaggle" / "kaggle.json").is_file() or os.environ.get("KAGGLE_KEY")
    return bool(token and find_spec("kagglehub"))


def _kaggle(what, folder, facts):
    import kagglehub

    return kagglehub.dataset_download(what)


def _gdrive(what, folder, facts):
    """A file shared on Google Drive, by its id or link."""
    import gdown

    named = {"url": what} if what.startswith("http") else {"id": what}
    archive = gdown.download(**named, output=f"{folder}/", resume=True)
    if archive is None:
        raise UserError(f"gdrive:{what}: Google Drive did not give the file (a quota, or it is not shared)")
    if zipfile.is_zipfile(archive):
        unpack(archive, folder)
    return folder


def _url(what, folder, facts):
    archive = folder / what.rsplit("/", 1)[-1]
    download(what, archive)
    if zipfile.is_zipfile(archive):
        unpack(archive, folder)
    return folder


def _zenodo(record, folder, facts):
    """Every file of the record (of MedMNIST: the 224 file of the set), each with Zenodo's MD5."""
    try:
        with urllib.request.urlopen(ZENODO.format(record), timeout=30) as answer:
            files = json.load(answer)["files"]
    except OSError as error:
        raise UserError(f"zenodo:{record}: {error}") from None
    if facts.flag:
        files = [f for f in files if f["key"] == f"{facts.flag}_224.npz"]
    for entry in files:
        path = folder / Path(entry["key"]).name
        download(entry["links"]["self"], path, entry["checksum"].removeprefix("md5:"))
        if path.suffix == ".zip":
            unpack(path, folder)
    return folder


def download(url, path, md5=""):
    """`url` into the file `path`, which appears whole; one that is there (with the right MD5) is kept.

    A download that broke off begins anew: pooch doesn't resume.

    Raises:
        UserError: no answer, less than was announced, or another MD5 than the published one; nothing is kept.
    """
    import pooch

    pooch.get_logger().setLevel("WARNING")
    try:
        pooch.retrieve(url, f"md5:{md5}" if md5 else None, path.name, path.parent,
                       downloader=pooch.HTTPDownloader(progressbar=True, chunk_size=1 << 20))  # fmt: skip
    except OSError as error:
        raise UserError(f"{url}: {' '.join(str(error).split())}; nothing was kept") from None
    except ValueError:
        raise UserError(f"{url}: the file's MD5 is not the published {md5}; nothing was kept") from None


def unpack(archive, folder):
    """The members of a zip below `folder`; one that would land elsewhere is refused."""
    folder = Path(folder).resolve()
    with zipfile.ZipFile(archive) as z:
        for member in z.infolist():
            target = (folder / member.filename).resolve()
            if not target.is_relative_to(folder):
                raise UserError(f"{archive}: member {member.filename!r} points outside the archive; nothing unpacked")
        for member in z.infolist():
            target = folder / member.filename
            if not member.is_dir() and not (target.is_file() and target.stat().st_size == member.file_size):
                target.parent.mkdir(parents=True, exist_ok=True)
                with z.open(member) as source, atomic_path(target) as temporary, open(temporary, "wb") as out:
                    shutil.copyfileobj(source, out)
