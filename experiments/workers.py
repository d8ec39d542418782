"""Several runs at once on one machine: worker processes that import everything once and are handed run after run.

The parent gives a worker the file of a spec in a line on its standard input and reads, a JSON object a line, what the
worker has to say. A worker that is killed loses its run's lock (the operating system's), so nothing waits for the dead.
"""

import collections
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from dassl.utils.errors import ConfigError, UserError
from dassl.utils.paths import REPO

from .launch import POLL_SECONDS, Launch, Outcome, outcome
from .spec_file import read_spec, write_spec

STOPPING_SECONDS = 60  # a stopped worker ends its step and writes a checkpoint within this
TAIL = 20  # lines of a worker's errors that are kept, to say why it died


class Worker:
    """A worker process. What it says arrives as (worker, message) in `news`; its end as (worker, None)."""

    def __init__(self, number, output, news, threads, device=""):
        self.number, self.spec, self.stopped, self.errors = number, None, False, collections.deque(maxlen=TAIL)
        env = {**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
        if device:
            env["CUDA_VISIBLE_DEVICES"] = device
        self.device = device
        words = [sys.executable, str(REPO / "cilmp"), "study", "--worker", str(output)]
        # A session of its own: a terminal's Ctrl-C reaches the parent alone, which then stops every worker once.
        self.process = subprocess.Popen(words, env=env, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=subprocess.PIPE, start_new_session=True)  # fmt: skip
        threading.Thread(target=self._read, args=(news,), daemon=True).start()
        self._drain = threading.Thread(target=lambda: self.errors.extend(self.process.stderr), daemon=True)
        self._drain.start()

    def _read(self, news):
        for line in self.process.stdout:
            try:
                news.put((self, json.loads(line)))
            except ValueError:  # something below Python printed: a compiler, a driver
                news.put((self, {"note": line.rstrip()}))
        news.put((self, None))

    def give(self, spec, path, force):
        self.spec = spec
        try:
            self.process.stdin.write(json.dumps({"spec": str(path), "force": force}) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:  # it has died; its end is among the news
            pass

    def why_it_died(self):
        code = self.process.wait()
        self._drain.join(timeout=5)
        if code < 0:
            hint = " (out of memory?)" if -code == signal.SIGKILL else ""
            return f"its worker was killed by {signal.Signals(-code).name}{hint}"
        last = next((line.strip() for line in reversed(self.errors) if line.strip()), "no word")
        return f"its worker ended with code {code}: {last[:200]}"

    def stop(self):
        """Ask it to end; what it runs can be resumed."""
        if not self.stopped and self.process.poll() is None:
            self.process.terminate()
        self.stopped = True


class Pool(Launch):
    """As Launch, `workers` runs at a time; threads and GPUs are divided among them."""

    def __init__(self, specs, output, force=False, workers=2):
        super().__init__(specs, output, force)
        if workers < 1:
            raise ConfigError(f"{workers} workers: give a number above 0")
        self.workers, self.memory = workers, Memory(output)

    def work(self, todo):
        news, self.crew, self.waiting = queue.Queue(), [], collections.deque(todo)
        self.again, self.files = set(), {}
        self.unsettled = {spec.folder(self.output) for spec in todo}
        with tempfile.TemporaryDirectory(prefix="cilmp-specs-") as folder:
            for i, spec in enumerate(todo):
                self.files[id(spec)] = Path(folder, f"{i}.json")
            try:
                self._work(news)
            finally:
                self._dismiss()

    def _work(self, news):
        devices = gpus() or [""]
        threads = max(1, (os.cpu_count() or 1) // self.workers)
        hire = lambda i: Worker(i, self.output, news, threads, devices[i % len(devices)])  # noqa: E731
        self.crew = [hire(i) for i in range(min(self.workers, len(self.waiting)))]
        free, resting = list(self.crew), 0.0
        while self.waiting or len(free) < len(self.crew):
            free = [w for w in free if not self._handed(w)] if time.monotonic() >= resting else free
            try:
                worker, message = news.get(timeout=POLL_SECONDS)
            except queue.Empty:
                continue
            if message is None:
                found = Outcome("failed", worker.why_it_died(), again=True)
                if worker.spec is None:  # before any run: the next would die too
                    raise UserError(f"no worker could be started - {found.words}")
                self.crew[worker.number] = hire(worker.number)
                free.append(self.crew[worker.number])
            elif "note" in message:
                self.say(f"    [{worker.number}] {message['note']}")
                continue
            else:
                found = Outcome(**message)
                free.append(worker)
            spec, worker.spec = worker.spec, None
            self._ended(spec, found)
            if found.state == "busy" and all(w.spec is None for w in self.crew):
                resting = time.monotonic() + POLL_SECONDS  # all that is left is in other hands

    def _handed(self, worker):
        """Whether the worker got a run: the first that is ready and fits beside what runs on its device."""
        for _ in range(len(self.waiting)):
            spec = self.waiting.popleft()
            if why := self.pointless(spec):
                self.settled(spec, Outcome("failed", why))
                continue
            if self._ready(spec) and self.memory.fits(spec, worker, self.crew):
                path = self.files[id(spec)]
                if not path.is_file():
                    write_spec(spec, path)
                worker.give(spec, path, self.force and id(spec) not in self.again)
                return True
            self.waiting.append(spec)
        return False

    def _ready(self, spec):
        """Whether the run it tests is done with; it may be among those that are still to be run."""
        if spec.source is None:
            return True
        return spec.source.folder(self.output) not in self.unsettled

    def settled(self, spec, found):
        done = super().settled(spec, found)
        if done:
            self.unsettled.discard(spec.folder(self.output))
        return done

    def _ended(self, spec, found):
        self.memory.forget()
        if found.again and id(spec) not in self.again:
            self.again.add(id(spec))
            self.say_again(spec, found)
            self.waiting.append(spec)
        elif not self.settled(spec, found):
            self.waiting.append(spec)

    def _dismiss(self):
        """Stop the workers; one that does not end is killed."""
        for worker in self.crew:
            worker.stop() if worker.spec is not None else worker.process.stdin.close()
        end = time.monotonic() + STOPPING_SECONDS
        for worker in self.crew:
            try:
                worker.process.wait(max(0.1, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                worker.process.kill()
                worker.process.wait()


class Memory:
    """Which runs fit beside each other on a GPU, by what finished runs of their kind needed."""

    SHARE = 0.9  # of a GPU's memory that may be filled
    UNKNOWN = 4  # times the most that a run on its backbone took: what a kind is thought to need that has not run yet

    def __init__(self, output):
        self.output, self._known, self._size = output, None, {}

    def forget(self):
        """A run has finished: look again what runs of its kind need."""
        self._known = None

    def fits(self, spec, worker, crew):
        if not worker.device:
            return True
        beside = [w.spec for w in crew if w.device == worker.device and w.spec is not None]
        needs = [self.need(s) for s in (spec, *beside)]
        if not beside:
            return True
        return None not in needs and sum(needs) <= self.SHARE * self.size(worker.device)

    def need(self, spec):
        """MiB that a run of this kind took at most, or a guess by others on its backbone (one that then dies for memory
        is tried again); None: no run on its backbone has finished yet, so it gets the GPU for itself."""
        if self._known is None:
            self._known = measured(self.output, "peak_memory_mib")
        if found := self._known.get(kind(spec)):
            return max(found)
        others = [max(mib) for (_, _, backbone, *_), mib in self._known.items() if backbone == spec.backbone]
        return self.UNKNOWN * max(others) if others else None

    def size(self, device):
        """MiB of a GPU, by its name in CUDA_VISIBLE_DEVICES."""
        if device not in self._size:
            asked = ["nvidia-smi", "-i", device, "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
            self._size[device] = float(subprocess.run(asked, capture_output=True, text=True, check=True).stdout)
        return self._size[device]


def gpus():
    """Names of this process's GPUs, as CUDA_VISIBLE_DEVICES takes them; [] where there are none."""
    import torch

    if not torch.cuda.is_available():
        return []
    named = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return named or [str(i) for i in range(torch.cuda.device_count())]


def kind(spec):
    """What runs of equal cost have in common."""
    return (spec.method, spec.dataset, spec.backbone, spec.shots, spec.source is None)


def measured(output, *names):
    """{kind: [sum of these costs]} of finished runs."""
    from .collect import records

    found = {}
    for r in records(output, quiet=True):
        spec = r["spec"]
        key = (spec["method"], spec["dataset"], spec["backbone"], spec["shots"], not spec["source"])
        values = [r["cost"].get(name) for name in names]
        if None not in values:
            found.setdefault(key, []).append(sum(values))
    return found


def serve(output):
    """A worker: run the specs named on standard input, one after another, and say how each ended."""
    from .reads import Reads

    channel = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    say = lambda message: print(json.dumps(message), file=channel, flush=True)  # noqa: E731
    sys.stdout, reads = _Notes(say), Reads()
    for line in sys.stdin:
        order = json.loads(line)
        try:
            spec = read_spec(order["spec"], reads)
            found = outcome(spec, Path(output), order["force"])
        except UserError as error:
            found = Outcome("failed", str(error))
        say(found._asdict())
    return 0


class _Notes:
    """Standard output of a worker: each line a note to the parent."""

    encoding, errors = "utf-8", "backslashreplace"

    def __init__(self, say):
        self.say, self.rest = say, ""

    def write(self, text):
        *lines, self.rest = (self.rest + text).split("\n")
        for line in filter(str.strip, lines):
            self.say({"note": line.strip()})
        return len(text)

    def flush(self):
        pass

    def isatty(self):
        return False
