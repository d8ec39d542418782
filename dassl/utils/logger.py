"""A tee of standard output into log.txt that can be closed again."""

import contextlib
import os
import sys
import time
from pathlib import Path


class Logger:
    """Writes to the console and to a file; a context manager that restores sys.stdout.

    Args:
        fpath: log file; None writes to the console only.
    """

    def __init__(self, fpath=None):
        self.console = sys.stdout
        self.file, self.silent = None, False
        if fpath is not None:
            Path(fpath).parent.mkdir(parents=True, exist_ok=True)
            # a line at a time: a killed run keeps its log
            self.file = open(fpath, "w", encoding="utf-8", buffering=1)  # noqa: SIM115 - closed by close()

    def write(self, message):
        if not self.silent:
            self.console.write(message)
        if self.file is not None:
            self.file.write(message)

    def flush(self):
        self.console.flush()
        if self.file is not None:
            self.file.flush()
            os.fsync(self.file.fileno())

    @contextlib.contextmanager
    def file_only(self):
        """What is printed meanwhile goes to the file and not to the console."""
        self.silent = True
        try:
            yield
        finally:
            self.silent = False

    def isatty(self):
        return self.console.isatty()

    def fileno(self):
        return self.console.fileno()

    @property
    def encoding(self):
        return self.console.encoding

    def close(self):
        """Close the file and give standard output back; the console stays open."""
        if sys.stdout is self:
            sys.stdout = self.console
        if self.file is not None:
            self.file.close()
            self.file = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def setup_logger(output=None):
    """Tee sys.stdout to output/log.txt (or to the given .txt/.log file) and return the Logger.

    An existing file is kept: the new one gets a time stamp appended, as upstream.
    """
    if isinstance(sys.stdout, Logger):
        sys.stdout.close()
    if output is None:
        return None
    path = str(output) if str(output).endswith((".txt", ".log")) else os.path.join(output, "log.txt")
    if os.path.exists(path):
        path += time.strftime("-%Y-%m-%d-%H-%M-%S")
    while os.path.exists(path):  # a third run in one second
        path += "+"
    sys.stdout = Logger(path)
    return sys.stdout
