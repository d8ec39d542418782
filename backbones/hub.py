"""Published weights, configurations and vocabularies: from the local caches, else fetched and compared (dassl.utils.hub
does both), else one clear line that says what to set instead."""

import os
import tempfile
from pathlib import Path

from dassl.utils import hub
from dassl.utils.errors import UserError
from dassl.utils.io import read_json_object

from .registry import OPEN_CLIP_FILES

VOCABULARY = ("vocab.txt", "vocab.json", "spiece.model", "sentencepiece.bpe.model", "tokenizer.model", "tokenizer.json")
TOKENIZER = ("config.json", "merges.txt", *VOCABULARY, "special_tokens_map.json", "added_tokens.json",
             "tokenizer_config.json")  # fmt: skip


def pretrained_file(name, entry):
    """Local path of an open_clip table entry (hub repository or address)."""
    if place := entry.get("hf_hub"):
        repository, filename = os.path.split(place)
        return hub_files(name, repository, (filename,) if filename else OPEN_CLIP_FILES, one=True)[0]
    return _from_address(name, entry["url"])


def _from_address(name, url):
    """The same of an address, as older open_clip tables have; whole or not at all."""
    from open_clip.pretrained import download_pretrained_from_url

    place = Path("~/.cache/clip").expanduser() / os.path.basename(url)
    if not place.is_file():
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=place.parent) as folder:
            try:
                os.replace(download_pretrained_from_url(url, cache_dir=folder), place)
            except Exception as error:  # networks fail in many ways
                raise unavailable(name, f"fetching {url} failed ({type(error).__name__}: {error})"[:300]) from None
    return str(place)


def hub_files(name, repository, filenames, one=False):
    """Local paths of files in a hub repository ("dataset:" in front where it is one).

    one: the first of `filenames` that exists is enough, one on this machine before others.
    """
    kind, _, repository = repository.rpartition(":")
    kind = kind or None
    try:
        if not one:
            return hub.fetch(repository, filenames, kind)
        return _first(repository, sorted(filenames, key=lambda f: not hub.cached(repository, f, kind)), kind)
    except hub.HubError as error:
        raise unavailable(name, str(error)) from None


def _first(repository, filenames, kind):
    for f in filenames:
        try:
            return hub.fetch(repository, [f], kind)
        except hub.NoSuchFile:
            continue
    raise hub.NoSuchFile(f"{repository} on {hub.endpoint()} has none of the files {', '.join(filenames)}")


def _cached(repository, kind, filenames, one):
    found = [path for f in filenames if (path := hub.cached(repository, f, kind))]
    if one:
        return found[:1]
    return found if len(found) == len(filenames) else []


def in_cache(repository, filename):
    """Whether a file of a hub repository is on this machine."""
    return hub.cached(repository, filename) is not None


def tokenizer_folder(source):
    """Folder of the tokenizer files of a hub repository, without any code that it may hold.

    Raises:
        HubError
    """
    names = [f for f in TOKENIZER if hub.cached(source, f)]
    if TOKENIZER[-1] not in names or not set(names) & set(VOCABULARY):  # it is fetched last
        _, there = hub.listing(source)
        names = [f for f in TOKENIZER if f in there]
    if not set(names) & set(VOCABULARY):
        raise hub.NoSuchFile(f"{source} on {hub.endpoint()} has none of the files {', '.join(VOCABULARY)}")
    return Path(hub.fetch(source, names)[-1]).parent


def bert_folder(name, source):
    """Folder with the configuration of the BERT that a text tower is built as.

    Raises:
        UserError: not to be had; no BERT.
    """
    try:
        (path,) = hub.fetch(source, ["config.json"])
    except hub.HubError as error:
        reason = f"its text tower {source} is not known here and {error}"
        raise UserError(f"backbone {name}: {reason}: set BACKBONE=demo, or another one") from None
    kind = read_json_object(path).get("model_type")
    if kind != "bert":
        raise UserError(f"backbone {name}: text towers of the kind {kind!r} ({source}) are not supported, BERT is")
    return Path(path).parent


def unavailable(name, why):
    """The one line that says what to set instead."""
    return UserError(
        f"the weights of backbone {name} are not on this machine and {why}: set BACKBONE=demo (it ships with the "
        f"repository), or give a checkpoint file you have with WEIGHTS (MODEL.BACKBONE.WEIGHTS)"
    )
