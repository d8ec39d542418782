"""Ctrl-C and SIGTERM (a cluster's warning) in the middle of training: the step ends, a checkpoint is written, then it
stops. A second signal stops at once."""

import signal
import threading

from dassl.utils.errors import Terminated


class StopAfterStep:
    """Context: `asked` is the signal that came meanwhile, None if none did; outside the main thread none is seen."""

    def __init__(self):
        self.asked, self._before = None, {}

    def __enter__(self):
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *_):
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number, frame):
        if self.asked is not None:
            self.stop()
        self.asked = number

    def stop(self):
        """Raise what the signal would have raised."""
        raise Terminated if self.asked == signal.SIGTERM else KeyboardInterrupt
