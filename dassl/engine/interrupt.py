"""Ctrl-C and SIGTERM (a cluster's warning) in the middle of training: the step ends, a checkpoint is written, then it
stops. A second Ctrl-C stops at once; further SIGTERMs do not, as schedulers send several and have SIGKILL for that."""

import signal
import threading

from dassl.utils.errors import Terminated


class StopAfterStep:
    """Context: `asked` is the signal that came meanwhile, None if none did; outside the main thread none is seen.

    After a SIGTERM it stays in force beyond its end, while a checkpoint is written, until `stop` or `release`.
    """

    def __init__(self):
        self.asked, self._before = None, {}

    def __enter__(self):
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *_):
        if self.asked != signal.SIGTERM:
            self.release()

    def release(self):
        """Give signals back to whom they went before."""
        while self._before:
            signal.signal(*self._before.popitem())

    def _ask(self, number, frame):
        if self.asked is not None and number == signal.SIGINT:
            self.asked = number
            self.stop()
        self.asked = self.asked or number

    def stop(self):
        """Raise what the signal would have raised."""
        self.release()
        raise Terminated if self.asked == signal.SIGTERM else KeyboardInterrupt
