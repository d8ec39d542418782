"""Errors a person can mend: one line that says what, where and how."""

import difflib
import signal
import sys


class UserError(ValueError):
    """A mistake in a call, a file or a setting; its text is one plain line, shown without a traceback."""

    def __str__(self):  # KeyError would put quotes around the sentence
        return " ".join(str(a) for a in self.args)


class MissingFile(UserError, FileNotFoundError):
    """A file or folder that should be there is not."""


class UnknownName(UserError, KeyError):
    """A name that no table knows."""


class ConfigError(UserError):
    """A configuration key or value that does not fit."""


def unknown_name(kind, name, known, remedy=""):
    """An UnknownName that lists what there is and suggests the nearest.

    Args:
        kind: what was looked for, e.g. "trainer".
        name: what was asked.
        known: the names there are.
        remedy: a further sentence, e.g. a command to run.
    """
    known = sorted(map(str, known))
    lowered = {k.lower(): k for k in known}
    near = difflib.get_close_matches(str(name).lower(), list(lowered), n=1, cutoff=0.5)
    hint = f" - did you mean {lowered[near[0]]!r}?" if near else ""
    listing = ", ".join(known) if known else "none"
    return UnknownName(f"unknown {kind} {name!r}{hint} Known: {listing}.{' ' + remedy if remedy else ''}")


class Terminated(KeyboardInterrupt):
    """SIGTERM: as Ctrl-C, but for its exit code."""


def _terminated(*_):
    raise Terminated


def run_main(main, resume_hint=""):
    """Run a script's main(); a UserError becomes one line and exit code 2, Ctrl-C exit code 130, SIGTERM 143."""
    signal.signal(signal.SIGTERM, _terminated)
    try:
        sys.exit(main() or 0)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt as stop:
        print(f"\ninterrupted - nothing finished is lost. {resume_hint}".rstrip(), file=sys.stderr)
        sys.exit(143 if isinstance(stop, Terminated) else 130)
