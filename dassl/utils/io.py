"""Small files, written whole or not at all."""

import contextlib
import hashlib
import json
import os
import tempfile
from pathlib import Path

from .errors import MissingFile, UserError


@contextlib.contextmanager
def atomic_path(path):
    """Yield a temporary path beside `path`; on success it is fsynced and renamed onto `path`."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    os.close(handle)
    try:
        yield Path(temporary)
        with open(temporary, "rb") as f:
            os.fsync(f.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)


def write_text(text, path):
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(obj, path, indent=4):
    write_text(json.dumps(obj, indent=indent, ensure_ascii=False, allow_nan=False) + "\n", path)


def read_json(path):
    """The object in a JSON file; MissingFile or UserError in one line otherwise."""
    try:
        with open(path, encoding="utf-8") as f:
            return json.load(f)
    except FileNotFoundError:
        raise MissingFile(f"no such file: {path}") from None
    except OSError as error:
        raise UserError(f"{path} can't be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:  # of text that is no JSON, of nesting without end
        raise UserError(f"{path} is not valid JSON ({error})") from None


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
