"""Fetching published weights: from the local caches if they are there, else from the network, else one clear line."""

import os
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

from dassl.utils.errors import UserError

PROBE_SECONDS = 5  # a machine without the hub should learn so at once, not after a dozen retries


def pretrained_file(name, entry):
    """Local path of an open_clip table entry (hub repository or address)."""
    if hub := entry.get("hf_hub"):
        repository, filename = os.path.split(hub)
        names = (filename,) if filename else ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
        return hub_files(name, repository, names, one=True)[0]
    from open_clip.pretrained import download_pretrained_from_url

    url = entry["url"]
    cached = Path("~/.cache/clip").expanduser() / os.path.basename(url)
    if not cached.is_file():
        _probe(name, url)
    return _or_line(name, lambda: download_pretrained_from_url(url))


def hub_files(name, repository, filenames, one=False):
    """Local paths of files in a hub repository ("dataset:" in front where it is one).

    one: the first of `filenames` that exists is enough.
    """
    kind, _, repository = repository.rpartition(":")
    kind = kind or None
    if found := _cached(repository, kind, filenames, one):
        return found
    from huggingface_hub import constants, hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    _probe(name, constants.ENDPOINT)
    if not one:
        return [_or_line(name, lambda f=f: hf_hub_download(repository, f, repo_type=kind)) for f in filenames]
    for f in filenames[:-1]:
        try:
            return [_or_line(name, lambda f=f: hf_hub_download(repository, f, repo_type=kind), EntryNotFoundError)]
        except EntryNotFoundError:
            continue
    return [_or_line(name, lambda: hf_hub_download(repository, filenames[-1], repo_type=kind))]


def _cached(repository, kind, filenames, one):
    from huggingface_hub import try_to_load_from_cache

    found = [try_to_load_from_cache(repository, f, repo_type=kind) for f in filenames]
    found = [f for f in found if isinstance(f, str)]
    if one:
        return found[:1]
    return found if len(found) == len(filenames) else []


def in_cache(repository, filename):
    """Whether a file of a hub repository is on this machine."""
    return bool(_cached(repository, None, [filename], True))


def reachable(url):
    """Whether a server answers within a few seconds (any answer counts)."""
    if os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0"):
        return False
    try:
        urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=PROBE_SECONDS).close()
    except urllib.error.HTTPError:
        return True
    except (OSError, ValueError):
        return False
    return True


def _probe(name, url):
    if not reachable(url):
        raise unavailable(name, f"{urllib.parse.urlsplit(url).netloc} cannot be reached")


def unavailable(name, why):
    """The one line that says what to set instead."""
    return UserError(
        f"the weights of backbone {name} are not on this machine and {why}: set BACKBONE=demo (it ships with the "
        f"repository), or give a checkpoint file you have with MODEL.BACKBONE.WEIGHTS"
    )


def _or_line(name, fetch, let_through=()):
    """fetch(), any failure as one line."""
    try:
        return fetch()
    except let_through:
        raise
    except Exception as error:  # whatever a download may raise: networks fail in many ways
        reason = str(error).strip().splitlines()[0][:160] if str(error).strip() else ""
        raise unavailable(name, f"fetching them failed ({type(error).__name__}: {reason})") from None
