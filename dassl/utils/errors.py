"""Errors a person can mend: one line that says what, where and how."""

import difflib
import errno
import os
import signal
import sys

from .paths import cache_root, output_root


class UserError(ValueError):
    """A mistake in a call, a file or a setting; its text is one plain line, shown without a traceback."""

    def __str__(self):  # KeyError would put quotes around the sentence
        return " ".join(str(a) for a in self.args)


class MissingFile(UserError, FileNotFoundError):
    """A file or folder that should be there is not."""


class Unwritable(UserError, OSError):
    """A place that should be written and cannot be."""


class UnknownName(UserError, KeyError):
    """A name that no table knows."""


class ConfigError(UserError):
    """A configuration key or value that does not fit."""


SHOWN = 8  # names of an unknown_name
LISTED = ("trainer", "dataset", "backbone", "LLM")  # what `cilmp list` prints


def unknown_name(kind, name, known, remedy=""):
    """An UnknownName: the reason and the nearest name, how to mend it, and a few of the names there are.

    Args:
        kind: what was looked for, e.g. "trainer".
        name: what was asked.
        known: the names there are.
        remedy: a further sentence, e.g. a command to run.
    """
    known = sorted(map(str, known))
    lowered = {k.lower(): k for k in known}
    near = [lowered[n] for n in difflib.get_close_matches(str(name).lower(), list(lowered), n=SHOWN, cutoff=0.5)]
    reason = f"unknown {kind} {name!r}" + (f" - did you mean {near[0]!r}?" if near else ";")
    shown = known if len(known) <= SHOWN else list(dict.fromkeys([*near, *known]))[:SHOWN]
    listing = ", ".join(shown) if shown else "none"
    if len(known) > SHOWN:
        listing += f" and {len(known) - SHOWN} more" + ("; see cilmp list" if kind in LISTED else "")
    if remedy and not remedy.endswith("."):  # a command, say, which a full stop would change
        remedy += ";"
    return UnknownName(" ".join(filter(None, [reason, remedy, f"Known: {listing}."])))


FULL = (errno.ENOSPC, errno.EDQUOT)
CLOSED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG,
          errno.ELOOP)  # fmt: skip


def unwritable(error, path=None):
    """The Unwritable that an OSError amounts to, with its place and how to mend it; None for other failures.

    Args:
        path: what was to be written, where the error does not say.
    """
    path = path or error.filename
    if isinstance(error, Unwritable):
        return error
    if error.errno in FULL and not isinstance(path, (str, os.PathLike)):  # a write() does not know its file's name
        path = output_root()
    if error.errno not in FULL + CLOSED or not isinstance(path, (str, os.PathLike)):
        return None
    path = os.path.abspath(path)
    reason = f"{path}: {error.strerror}"
    if error.errno == errno.EEXIST:
        reason = f"{path}: {error.filename} is not a directory"
    remedy = "make room there, or " if error.errno in FULL else ""
    for root, variable in ((cache_root(), "CILMP_CACHE (the cache)"), (output_root(), "OUTPUT")):
        if os.path.commonpath([path, root]) == str(root):
            return Unwritable(f"{reason}; {remedy}set {variable} to a folder that can be written, it is {root}")
    return Unwritable(f"{reason}; {remedy}choose a place that can be written" if remedy else reason)


class Terminated(KeyboardInterrupt):
    """SIGTERM: as Ctrl-C, but for its exit code."""


def _terminated(*_):
    raise Terminated


def run_main(main, resume_hint=""):
    """Run a script's main(); a UserError, or a place that cannot be written, becomes one line and exit code 2,
    Ctrl-C exit code 130, SIGTERM 143. What a terminal's encoding lacks is printed as an escape."""
    signal.signal(signal.SIGTERM, _terminated)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        sys.exit(main() or 0)
    except UserError as error:
        _fail(error)
    except OSError as error:
        if (told := unwritable(error)) is None:
            raise
        _fail(told)
    except KeyboardInterrupt as stop:
        print(f"\ninterrupted - nothing finished is lost. {resume_hint}".rstrip(), file=sys.stderr)
        sys.exit(143 if isinstance(stop, Terminated) else 130)


def _fail(error):
    print(f"error: {error}", file=sys.stderr)
    sys.exit(2)
