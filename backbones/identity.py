"""Which weights a name stands for on this machine, told without loading or fetching them."""

import os
from pathlib import Path

from dassl.utils.io import sha256_cached, sha256_of

from . import hub, recipes
from .registry import OPEN_CLIP_FILES, ROWS


def weights_sha256(name, weights=None):
    """SHA-256 of the weight file that `load(name, weights)` reads (of several: of their hashes).

    Random weights are "random" or "random:SEED". Published weights that are not on this machine yet cannot be hashed:
    the name stands for them, so ask after `load`, which fetches them. A file is hashed once, and again when its size
    or times change.

    Raises:
        UnknownName, MissingFile: as `load` does.
    """
    name, weights = str(name).strip(), str(weights).strip() if weights else None
    kind, *where = _source(name, weights)
    if kind == "random":
        return "random" if where[0] == 0 else f"random:{where[0]}"
    files = {"file": _given, "tag": _tagged, "hub": _on_hub}[kind](*where)
    if not files:
        return name
    digests = [sha256_cached(file) for file in files]
    return digests[0] if len(digests) == 1 else sha256_of(digests)


def _source(name, weights):
    """`Recipe.source`, without reading a checkpoint for its shapes or asking the hub for a configuration."""
    if name in ROWS and ROWS[name].own_config:
        return recipes._source(weights) if weights else ("hub", *ROWS[name].hub)
    if name.startswith("hf-hub:") and not hub.in_cache(name.removeprefix("hf-hub:"), recipes.CONFIG):
        return recipes._source(weights) if weights else ("hub", name.removeprefix("hf-hub:"), ())
    alone = name not in ROWS and "::" not in name and Path(name).suffix in recipes.SUFFIXES
    if alone and (weights or Path(name).expanduser().is_file()):
        return recipes._source(weights or name)
    return recipes.resolve(name, weights).source


def _given(path):
    """A checkpoint file, or the three files of PMC-CLIP in a folder."""
    path = Path(path).expanduser()
    return [path / n for n in ROWS["PMC-CLIP"].hub[1]] if path.is_dir() else [path]


def _tagged(entry):
    """The file of an open_clip table entry where its cache has it."""
    if place := entry.get("hf_hub"):
        repository, filename = os.path.split(place)
        return _on_hub(repository, (filename,) if filename else OPEN_CLIP_FILES)
    path = Path("~/.cache/clip").expanduser() / os.path.basename(entry["url"])
    return [path] if path.is_file() else []


def _on_hub(repository, filenames):
    """Files of a hub repository where its cache has them; three belong together, two are either of one."""
    kind, _, repository = repository.rpartition(":")
    return hub._cached(repository, kind or None, filenames, one=len(filenames) != 3)
