"""A bundle: a run's folder as it is handed on, with the hash of every file in bundle.json.

bundle.json     form, version, method, backbone (name, hash of its weights, folder where they are inside), hashes of the
                data, files {path: SHA-256}, and its own hash without that entry
results.json, kept.json, knowledge.safetensors, sentences.json, <model>/learner.safetensors, calibration.json: the run's
backbone/       as open_clip writes one, with --with-backbone
README.md       the model card

Nothing in it is run or unpickled.
"""

import contextlib
import re
from pathlib import Path, PurePosixPath, PureWindowsPath

from dassl.utils.errors import MissingFile, UserError
from dassl.utils.io import misfit, read_json_object, sha256_file, sha256_of, write_json

FILE, CARD, BACKBONE = "bundle.json", "README.md", "backbone"
FORM = 1
FACTS = {"files": dict, "backbone": {"folder": str}}  # what is read of it
ADDRESS = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
ENDINGS = (".json", ".safetensors", ".md", ".txt", ".model", ".onnx")  # nothing that has to be unpickled or run


def is_bundle(folder):
    return (Path(folder) / FILE).is_file()


def seal(folder, facts):
    """Write bundle.json: facts, and the hashes of all files that are there now."""
    folder = Path(folder)
    files = {p.relative_to(folder).as_posix(): sha256_file(p) for p in sorted(folder.rglob("*")) if p.is_file()}
    files.pop(FILE, None)
    content = {"form": FORM, **facts, "files": files}
    write_json(content | {"sha256": sha256_of(content)}, folder / FILE)


def read(folder):
    """The content of bundle.json, whose own hash holds and whose names stay in the folder."""
    path = Path(folder) / FILE
    content = read_json_object(path)
    if content.get("form") != FORM:
        raise UserError(f"{path} is of another version of the toolbox (form {content.get('form')}, here {FORM})")
    if content.get("sha256") != sha256_of({k: v for k, v in content.items() if k != "sha256"}):
        raise UserError(f"{path} was changed since the bundle was made; get the bundle again")
    if words := misfit(content, FACTS):
        raise UserError(f"{path} is not whole ({words}); get the bundle again")
    files = content["files"]
    for name in files:
        _check_name(name, path)
    inner = content["backbone"]["folder"]
    if inner and not any(name.startswith(f"{inner}/") for name in files):
        raise UserError(f"{path} names a backbone outside the bundle, {inner!r}: it is refused")
    return content


def _check_name(name, path):
    parts = PurePosixPath(name.replace("\\", "/")).parts
    if not parts or ".." in parts or PurePosixPath(name).is_absolute() or PureWindowsPath(name).drive or "\0" in name:
        raise UserError(f"{path} names a file outside the bundle, {name!r}: it is refused")
    if not name.endswith(ENDINGS):
        raise UserError(f"{path} names {name!r}, and a bundle holds {', '.join(ENDINGS)} only: it is refused")


def verified(folder):
    """`read`, once every file has its hash and nothing else lies there.

    Raises:
        MissingFile, UserError: in one line, which file is missing, changed or not of the bundle.
    """
    folder, content = Path(folder), read(folder)
    for name, wanted in content["files"].items():
        path = folder / name
        if not path.is_file():
            raise MissingFile(f"{path} is missing: the bundle is not whole; get it again")
        if sha256_file(path) != wanted:
            raise UserError(f"{path} was changed since the bundle was made; get the bundle again")
    inside = (p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    for name in inside:
        if name not in content["files"] and name != FILE and not _of_a_tool(name):
            raise UserError(f"{folder / name} is no file of the bundle; remove it")
    return content


def _of_a_tool(name):
    """What git, a file manager or the hub's client leaves beside."""
    return PurePosixPath(name).parts[0].startswith(".")


def pulled(address):
    """The folder of a bundle on the Hugging Face hub, ORG/NAME or ORG/NAME@REVISION, fetched and compared.

    Raises:
        UserError: no such repository, no bundle in it.
    """
    from dassl.utils import hub

    repository, _, revision = address.partition("@")
    check_address(repository)
    revision = revision or None
    try:
        (path,) = hub.fetch(repository, [FILE], revision=revision)
        content = read(Path(path).parent)
        hub.fetch(repository, list(content["files"]), revision=revision)
    except hub.NoSuchFile as error:
        raise UserError(f"{repository} is no bundle, or not a whole one: {error}") from None
    return Path(path).parent


def check_address(repository):
    """UserError unless it is USER/NAME."""
    if not ADDRESS.fullmatch(repository):
        raise UserError(f"{repository!r} is no repository of the hub: give USER/NAME")


def push(folder, repository, public=False):
    """Upload a bundle to the Hugging Face hub, as a private repository unless `public`; returns its address."""
    from huggingface_hub import HfApi

    from dassl.utils import hub

    files = [FILE, *verified(folder)["files"]]
    api = HfApi(endpoint=hub.endpoint())
    try:
        with _quiet():
            api.create_repo(repository, private=not public, exist_ok=True)
            api.upload_folder(repo_id=repository, folder_path=folder, allow_patterns=files, commit_message="A bundle")
    except Exception as error:  # every transport library has its own
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status in (401, 403):
            raise UserError(f"{hub.endpoint()} does not let you write {repository} ({status}): `hf auth login` with a "
                            f"token that may write, or set HF_TOKEN") from None  # fmt: skip
        raise hub.told(error, repository, "an upload") from None
    return f"{hub.endpoint()}/{repository}"


@contextlib.contextmanager
def _quiet():
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    before = are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if not before:
            enable_progress_bars()
