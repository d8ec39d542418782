"""Small files, written whole or not at all."""

import contextlib
import errno
import hashlib
import json
import math
import os
import shutil
import tempfile
import time
from pathlib import Path

from .errors import MissingFile, UserError, unwritable
from .paths import cache_root

YOUNG = 2.0  # seconds within which a file may change without its time telling
SCARCE = 1 << 16  # bytes: less than this left is a full disk


@contextlib.contextmanager
def atomic_path(path):
    """Yield a temporary path beside `path`; on success it is fsynced and renamed onto `path`.

    Raises Unwritable where that cannot be done: no permission, a full disk, a file in a folder's place.
    """
    path, temporary = Path(path), None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:100]}.", suffix=".tmp")
        os.close(handle)
        yield Path(temporary)
        with open(temporary, "rb") as f:
            os.fsync(f.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except OSError as error:
        about_another = temporary is not None and error.filename not in (None, temporary)
        raise unwritable(error, error.filename if about_another else path) or error from None
    except UserError:
        raise
    except Exception as error:  # torch and safetensors have errors of their own for a full disk
        full = os.strerror(errno.ENOSPC)
        if temporary is None or (full not in str(error) and _free(path) > SCARCE):
            raise
        raise unwritable(OSError(errno.ENOSPC, full), path) from error
    finally:
        if temporary is not None:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)


def _free(path):
    """Bytes left on the disk of a file."""
    return shutil.disk_usage(path.parent).free


def free_folder(path):
    """A new or empty folder's absolute path; UserError where it holds something."""
    path = Path(path).expanduser().absolute()
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise UserError(f"{path} is there and not empty: name a new folder")
    return path


@contextlib.contextmanager
def atomic_folder(path):
    """A temporary folder that becomes the new or empty folder `path` when all went well, and is removed otherwise."""
    path = free_folder(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as temporary:
        place = Path(temporary, "new")
        place.mkdir()
        yield place
        if path.exists():
            path.rmdir()
        place.rename(path)


def write_text(text, path):
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(obj, path, indent=4):
    write_text(json.dumps(obj, indent=indent, ensure_ascii=False, allow_nan=False) + "\n", path)


def read_json(path):
    """What a JSON file holds; MissingFile or UserError in one line otherwise."""
    try:
        with open(path, encoding="utf-8") as f:
            return json.load(f)
    except FileNotFoundError:
        raise MissingFile(f"no such file: {path}") from None
    except OSError as error:
        raise UserError(f"{path} can't be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:  # of text that is no JSON, of nesting without end
        raise UserError(f"{path} is not valid JSON ({error})") from None


def read_json_object(path):
    """The dict in a JSON file; UserError where it holds anything else."""
    content = read_json(path)
    if not isinstance(content, dict):
        raise UserError(f"{path} must hold a JSON object, it holds {type(content).__name__}")
    return content


def misfit(content, form, place=""):
    """The first value of a dict that is not of its kind, in words ("spec.method is missing"); "" where all fit.

    Args:
        form: {key: type, tuple of types, or the form of a dict there}; a float must be finite.
    """
    for key, kind in form.items():
        value = content.get(key, ...)
        inner = kind if isinstance(kind, dict) else {}
        finite = not isinstance(value, float) or math.isfinite(value)
        if not isinstance(value, dict if isinstance(kind, dict) else kind) or not finite:
            return f"{place}{key} is {'missing' if value is ... else repr(value)[:40]}"
        if words := inner and misfit(value, inner, f"{place}{key}."):
            return words
    return ""


def canonical_json(obj):
    """Bytes that depend on the content only: sorted keys, no blanks, UTF-8."""
    return json.dumps(obj, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode("utf-8")


def sha256_of(obj):
    """SHA-256 (hex) of the canonical JSON of `obj`."""
    return hashlib.sha256(canonical_json(obj)).hexdigest()


def sha256_file(path, block=1 << 20):
    digest = hashlib.sha256()
    with open(path, "rb") as f:
        while chunk := f.read(block):
            digest.update(chunk)
    return digest.hexdigest()


def sha256_cached(path):
    """`sha256_file`, remembered in the cache for as long as the file's path, size and times stay the same."""
    path = Path(path).resolve()
    note = cache_root() / "hashes" / f"{sha256_of(str(path))[:32]}.json"
    before = _stamp(path)
    with contextlib.suppress(UserError):
        known = read_json_object(note)
        if known.get("stamp") == before:
            return known["sha256"]
    digest = sha256_file(path)
    if _stamp(path) == before and time.time() - path.stat().st_mtime > YOUNG:
        with contextlib.suppress(OSError):  # only time is lost
            write_json({"path": str(path), "stamp": before, "sha256": digest}, note)
    return digest


def _stamp(path):
    """Size and times; the second is renewed even where a copy keeps the first."""
    facts = path.stat()
    return [facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns]
