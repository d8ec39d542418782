"""Running what is not finished: checks at the door, a line a run, failures that stop nobody else, work shared."""

import datetime
import shutil
import time
import traceback

from dassl.utils.errors import UserError, unwritable
from dassl.utils.io import read_json_object, sha256_file, write_text

from .collect import records, results_file
from .reads import Knowledge, Reads, differing, is_ours
from .run import Busy, claimed, run

POLL_SECONDS = 2  # between looks at runs that another process works on


def resolved(specs):
    """The specs with what they read hashed; missing LLM rows or sentences are made first, and said."""
    at_the_door(specs)
    reads = Reads()
    return [spec.resolved(reads) for spec in specs]


def at_the_door(specs):
    """Find out before the first run, not after the last: data sets, backbone, LLM rows and sentences."""
    from cilmp import backbones, datasets, trainers

    wanted = [s for s in specs if not s.why_not]
    for name, root in dict.fromkeys((s.dataset, s.root) for s in wanted):
        if is_ours(name) and name not in datasets.locate.FOLDER_SETS:
            datasets.locate.load_split(name, root)
    ours = {s.method: s for s in wanted if s.method in trainers.methods()}
    for spec in list(ours.values())[:1]:
        backbones.load(spec.backbone, weights=spec.weights or None)
    asked = {(s.method, s.dataset): s for s in wanted if s.method in ours and trainers.methods()[s.method].needs_llm}
    for spec in asked.values():
        Knowledge(trainers.methods()[spec.method], spec.config).ensure()


class Launch:
    """The resolved specs of one command and the folder of their runs."""

    def __init__(self, specs, output, force=False):
        self.wanted = [s for s in specs if not s.why_not]
        self.output, self.force, self.broken, self.seconds = output, force, set(), []
        self.number = 0

    def results(self, spec):
        return results_file(spec.folder(self.output), spec.split)

    def finished(self, spec):
        """Whether its results are there and, for a test, are of its source's present training."""
        path = self.results(spec)
        if not path.is_file():
            return False
        if spec.source is None:
            return True
        source = self.results(spec.source)
        known = read_json_object(path).get("source_sha256")
        return known is None or not source.is_file() or known == sha256_file(source)

    def run_all(self):
        """Run what is not finished; returns the number of failed runs."""
        todo = [s for s in self.wanted if self.force or not self.finished(s)]
        if len(todo) < len(self.wanted):
            print(f"{len(self.wanted) - len(todo)} finished runs found, not repeated (FORCE=1 does)")
        self.say_outdated(todo)
        self.total, waiting_said = len(todo), False
        while todo:
            left = [spec for spec in todo if not self.attempted(spec)]
            if len(left) == len(todo):  # all that is left is in other hands
                if not waiting_said:
                    print(f"waiting for {len(left)} runs that another process is at", flush=True)
                waiting_said = True
                time.sleep(POLL_SECONDS)
            todo = left
        return len(self.broken)

    def attempted(self, spec):
        """Whether the run is done with, well or not; False: another process is at it, or at its training."""
        folder, source = spec.folder(self.output), spec.source
        if source and source.folder(self.output) in self.broken:
            return self.failed(spec, "not run, as its training failed")
        if source and not self.results(source).is_file():
            return False
        try:
            with claimed(folder):
                if self.finished(spec) and not self.force:
                    return self.said(spec, "finished by another process meanwhile")
                return self.done(spec, folder)
        except Busy:
            return False

    def done(self, spec, folder):
        begin = time.time()
        if reason := attempt(spec, folder, self.output, self.force):
            return self.failed(spec, f"failed - {reason}")
        self.seconds.append(time.time() - begin)
        each = sum(self.seconds) / len(self.seconds)
        left = datetime.timedelta(seconds=round(each * (self.total - self.number - 1)))
        accuracy = read_json_object(self.results(spec))["metrics"]["accuracy"]
        return self.said(spec, f"accuracy {accuracy:.1f} ({self.seconds[-1]:.0f} s, about {left} left)")

    def failed(self, spec, words):
        self.broken.add(spec.folder(self.output))
        return self.said(spec, words)

    def said(self, spec, words):
        """Tell how a run ended; True: it is done with."""
        self.number += 1
        print(f"[{self.number}/{self.total}] {spec}: {words}", flush=True)
        return True

    def say_outdated(self, todo):
        """Say which finished runs of the same settings are not taken, and why: what they read has changed since."""
        if not todo:
            return
        now = {(s.part, s.seed, str(s.settings)): s for s in todo}
        reasons = {}
        places = dict.fromkeys(s.folder(self.output).parents[5] for s in todo)  # <output>/<protocol>/<dataset>
        for r in (r for place in places for r in records(place, quiet=True)):
            spec = now.get((r["spec"]["part"], r["seed"], str(r["spec"].get("settings"))))
            if spec is not None and "reads" in r and r["key"] != spec.key:
                words = ", ".join(differing(r["reads"], spec.reads)) or "source run"
                reasons[words] = reasons.get(words, 0) + 1
        for words, n in reasons.items():
            print(f"{n} finished runs are not taken: their {words} has changed since; run anew beside them", flush=True)


def attempt(spec, folder, output, force):
    """Run it; returns "" or, in one line, why it failed. A traceback that is not the user's goes to error.txt."""
    if force and folder.exists():
        shutil.rmtree(folder)
    source = spec.source.folder(output) if spec.source else ""
    try:
        run(spec, folder, model_dir=str(source), quiet=True)
    except UserError as error:
        return str(error)
    except OSError as error:
        if (told := unwritable(error)) is None:
            return unexpected(error, folder)
        return str(told)
    except Exception as error:  # out of memory, a loss that is not finite, a plugin's mistake: the others go on
        return unexpected(error, folder)
    if not (there := results_file(folder, spec.split)).is_file():
        return (f"it wrote no {there.name}, which tables are made of: a trainer's own test() must call super().test(), "
                f"and TEST.NO_TEST stay False (what it printed: {folder / 'log.txt'})")  # fmt: skip
    return ""


def unexpected(error, folder):
    """The words of an error that is not the user's; its traceback is kept."""
    write_text(traceback.format_exc(), folder / "error.txt")
    words = " ".join(str(error).split())[:160]
    return f"{type(error).__name__}: {words} (see {folder / 'error.txt'})"
