"""Files of the Hugging Face hub by its own client: from this machine's cache, else fetched; whole, or not at all.

    (path,) = fetch("timm/vit_base_patch16_clip_224.openai", ["open_clip_model.safetensors"])

The hub announces the hash of every file (SHA-256 of large ones, git's of others), and its client keeps files under it,
but compares sizes only: here the content is compared, of cached files too (once, see `sha256_cached`), and what differs
is removed. The client's own variables hold: HF_ENDPOINT (a mirror), HF_HOME (where the cache lies), HF_TOKEN,
HF_HUB_OFFLINE, HF_HUB_DOWNLOAD_TIMEOUT, HF_HUB_ETAG_TIMEOUT.
"""

import hashlib
import os
import shutil
import time
import warnings
from pathlib import Path

from .errors import CLOSED, FULL, UserError
from .io import sha256_cached

PAUSES = (1, 2, 4, 8)  # seconds between questions to a hub that is not well
TRANSIENT = (429, 500, 502, 503, 504)


class HubError(UserError):
    """Why a file could not be had, in one line; who asked for it adds what to do instead."""


class NoSuchFile(HubError):
    """The repository is there, the file is not in it."""


def endpoint():
    """Address of the hub."""
    from huggingface_hub import constants

    return constants.ENDPOINT


def cached(repository, filename, kind=None, revision=None):
    """Path of a file that is on this machine, as text; else None. kind: None of a model, "dataset"."""
    from huggingface_hub import constants, try_to_load_from_cache

    found = try_to_load_from_cache(
        repository, filename, cache_dir=constants.HF_HUB_CACHE, repo_type=kind, revision=revision
    )
    return found if isinstance(found, str) else None


def listing(repository, revision=None):
    """(commit, names of the files) of a model repository, asked of the hub.

    Raises:
        HubError
    """
    from huggingface_hub import HfApi

    try:
        more = {"revision": revision} if revision else {}
        info = HfApi().model_info(repository, timeout=_patience(), **more)
        return info.sha, [s.rfilename for s in info.siblings or ()]
    except Exception as error:  # every transport library has its own
        raise told(error, repository, "the list of its files") from None


def fetch(repository, filenames, kind=None, revision=None):
    """Paths of files of a repository on this machine, in order; what is missing is fetched.

    Raises:
        HubError: nothing broken is left in the cache. NoSuchFile: the repository has no such file.
    """
    paths = {f: _sound(cached(repository, f, kind, revision)) for f in filenames}
    missing = [f for f, path in paths.items() if path is None]
    announced = {f: _ask(repository, f, kind, revision) for f in missing}
    if missing:
        _check_room(sum(a.size or 0 for a in announced.values()), repository)
    for f in missing:
        paths[f] = _download(repository, f, kind, revision, announced[f].etag)
    return [paths[f] for f in filenames]


def _patience():
    """Seconds to wait for an answer."""
    from huggingface_hub import constants

    return max(constants.HF_HUB_ETAG_TIMEOUT, constants.HF_HUB_DOWNLOAD_TIMEOUT)


def _ask(repository, filename, kind, revision):
    """What the hub announces of a file: etag (its hash), size, commit."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import HfHubHTTPError

    url = hf_hub_url(repository, filename, repo_type=kind, revision=revision)
    for pause in (*PAUSES, None):
        try:
            answer = get_hf_file_metadata(url, timeout=_patience())
            break
        except HfHubHTTPError as error:
            if pause is None or error.response.status_code not in TRANSIENT:
                raise told(error, repository, filename) from None
            time.sleep(pause)
        except Exception as error:
            raise told(error, repository, filename) from None
    if not answer.commit_hash or not answer.etag:
        raise HubError(_no_hub(repository, filename))
    return answer


def _no_hub(repository, what):
    return (
        f"{endpoint()} does not answer as a hub when asked for {what} of {repository} (the sign-in page of a network, "
        "a proxy, or an HF_ENDPOINT that is no hub)"
    )


def _check_room(size, repository):
    """HubError where `size` bytes do not fit the cache's disk."""
    from huggingface_hub import constants

    place = next(p for p in (Path(constants.HF_HUB_CACHE), *Path(constants.HF_HUB_CACHE).parents) if p.exists())
    if (free := shutil.disk_usage(place).free) < size:
        raise HubError(
            f"there is no room for {size / 1e6:,.0f} MB of {repository} in {constants.HF_HUB_CACHE} "
            f"({free / 1e6:,.0f} MB free; make room, or set HF_HOME to a folder on another disk)"
        )


def _download(repository, filename, kind, revision, etag):
    from huggingface_hub import constants, hf_hub_download

    try:
        with warnings.catch_warnings():  # of too little room: told above
            warnings.simplefilter("ignore", UserWarning)
            path = hf_hub_download(
                repository, filename, repo_type=kind, revision=revision, cache_dir=constants.HF_HUB_CACHE,
                etag_timeout=_patience(),
            )  # fmt: skip
    except Exception as error:  # networks fail in many ways
        raise told(error, repository, filename) from None
    if difference := _difference(path, etag):
        _discard(path)
        raise HubError(
            f"what {endpoint()} sent as {filename} of {repository} is not what it announced ({difference}); it was "
            "removed again: try once more, or another HF_ENDPOINT"
        )
    return path


def _sound(path):
    """A cached file, if its content has the hash that it is kept under; one that has not is removed."""
    if path is None or not _difference(path):
        return path
    _discard(path)
    return None


def _difference(path, etag=""):
    """What differs between content and the announced hash, "" if nothing does or nothing was announced.

    The cache keeps a file under that hash and links to it; `etag` is for caches without links.
    """
    name = Path(path).resolve().name
    wanted = name if _is_hash(name) else etag
    if not _is_hash(wanted):
        return ""
    if len(wanted) == 64:
        found = sha256_cached(path)
        return "" if found == wanted else f"its SHA-256 is {found[:12]}..., announced was {wanted[:12]}..."
    content = Path(path).read_bytes()
    git = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    plain = hashlib.sha1(content).hexdigest()  # of mirrors that are no git
    return "" if wanted in (git, plain) else f"its SHA-1 is {git[:12]}..., announced was {wanted[:12]}..."


def _is_hash(text):
    return len(text) in (40, 64) and not set(text) - set("0123456789abcdef")


def _discard(path):
    """Remove a file from the cache: the link and what it points to."""
    for p in (path, os.path.realpath(path)):
        try:
            os.unlink(p)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise HubError(f"{p} is damaged and can't be removed ({error.strerror})") from None


def _chain(error):
    """An error and what it came from, innermost last."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def told(error, repository, what):
    """The HubError that says what an error of the client or its transport library means."""
    from huggingface_hub import constants

    chain, place, hub = list(_chain(error)), f"{what} of {repository}", endpoint()
    kinds = {c.__name__ for e in chain for c in type(e).__mro__}
    status = next((e.response.status_code for e in chain if getattr(e, "response", None) is not None), None)
    if "GatedRepoError" in kinds:
        return HubError(
            f"{repository} is gated: accept its licence on {hub}/{repository}, then run `hf auth login` (or set "
            "HF_TOKEN) as the user who did"
        )
    if "RepositoryNotFoundError" in kinds:
        return HubError(f"{hub} has no repository {repository} (or a private one: `hf auth login`, or set HF_TOKEN)")
    if "EntryNotFoundError" in kinds and status == 404:
        return NoSuchFile(f"{repository} on {hub} has no file {what}")
    if status is not None:
        return HubError(f"{hub} answers {status} when asked for {place}: try again later, or another HF_ENDPOINT")
    if "OfflineModeIsEnabled" in kinds:
        return HubError(f"HF_HUB_OFFLINE is set and {place} is not in the cache ({constants.HF_HUB_CACHE})")
    if {"FileMetadataError", "JSONDecodeError"} & kinds:
        return HubError(_no_hub(repository, what))
    return HubError(_not_arrived(chain, kinds, place))


def _not_arrived(chain, kinds, place):
    """Why the bytes of a file did not arrive on the disk; kinds: names of the errors' classes."""
    from huggingface_hub import constants

    hub, cache = endpoint(), constants.HF_HUB_CACHE
    if {"TimeoutException", "Timeout", "TimeoutError"} & kinds:
        return (
            f"{hub} sent nothing of {place} for {constants.HF_HUB_DOWNLOAD_TIMEOUT} s: try again, or set "
            "HF_HUB_DOWNLOAD_TIMEOUT (seconds)"
        )
    if {"ConnectError", "ConnectionError"} & kinds:
        return f"{hub} cannot be reached"
    for e in chain:
        if getattr(e, "errno", None) in FULL + CLOSED:
            return f"{place} can't be written to {cache} ({e.strerror}): make room, or set HF_HOME to another folder"
    inner = next((e for e in reversed(chain) if str(e).strip()), chain[0])
    reason = (str(inner).strip().splitlines() or [""])[0][:160]
    return f"fetching {place} from {hub} failed ({type(inner).__name__}: {reason})"
