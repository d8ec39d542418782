"""Running what is not finished: checks at the door, a line a run, failures that stop nobody else, work shared."""

import datetime
import shutil
import time
import traceback
from typing import NamedTuple

from dassl.utils.errors import UserError, unwritable
from dassl.utils.io import read_json_object, sha256_file, write_text

from .collect import read, records, results_file
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
    for error, _ in problems(specs):
        raise error


def problems(specs, make=True):
    """Yield (UserError, the specs it stops) for data sets, backbones, LLM rows and sentences that are not to be had.

    Args:
        make: make missing rows and sentences, saying so; False: they are no problem, as a run would make them.
    """
    from cilmp import backbones, datasets, trainers

    wanted, ours = [s for s in specs if not s.why_not], trainers.methods()
    own_data = [s for s in wanted if is_ours(s.dataset) and s.dataset not in datasets.locate.FOLDER_SETS]
    split = lambda s: datasets.locate.load_split(s.dataset, s.root)  # noqa: E731
    yield from _stopped(own_data, lambda s: (s.dataset, s.root), split)
    towers = [s for s in wanted if s.method in ours]
    load = lambda s: backbones.load(s.backbone, weights=s.weights or None)  # noqa: E731
    yield from _stopped(towers, lambda s: (s.backbone, s.weights), load)
    if make:
        asked = [s for s in towers if ours[s.method].needs_llm]
        ensure = lambda s: Knowledge(ours[s.method], s.config).ensure()  # noqa: E731
        node = lambda s: str(s.config.TRAINER[ours[s.method].node_name()])  # noqa: E731
        yield from _stopped(asked, lambda s: (s.method, s.dataset, s.llm, node(s)), ensure)


def _stopped(specs, key, check):
    """Yield (UserError, specs of that key) where the check of the first of them raises it."""
    alike = {}
    for spec in specs:
        alike.setdefault(key(spec), []).append(spec)
    for some in alike.values():
        try:
            check(some[0])
        except UserError as error:
            yield error, some


class Outcome(NamedTuple):
    """How an attempt at a run ended. `again`: it failed by no mistake of the user's, and may not a second time."""

    state: str  # done, failed, or busy: another process is at it, or at its training
    words: str = ""
    seconds: float = 0.0  # of the run itself; 0 where it was found finished
    again: bool = False


class Launch:
    """The resolved specs of one command and the folder of their runs."""

    workers = 1

    def __init__(self, specs, output, force=False):
        self.wanted = [s for s in specs if not s.why_not]
        self.output, self.force, self.seconds = output, force, []
        self.number, self.failures = 0, {}  # {folder: (name, why)}, in the order they failed
        self.names = told_apart(self.wanted)

    def run_all(self):
        """Run what is not finished; returns the number of failed runs."""
        todo = self.unfinished()
        self.total = len(todo)
        self.work(todo)
        return len(self.failures)

    def unfinished(self):
        """What is left to run; says what is found."""
        todo = [s for s in self.wanted if self.force or not finished(s, self.output)]
        if len(todo) < len(self.wanted):
            print(f"{len(self.wanted) - len(todo)} finished runs found, not repeated (FORCE=1 does)")
        self.say_outdated(todo)
        return todo

    def work(self, todo):
        waiting_said = False
        while todo:
            left = [spec for spec in todo if not self.settled(spec, self.one(spec))]
            if len(left) == len(todo):  # all that is left is in other hands
                if not waiting_said:
                    print(f"waiting for {len(left)} runs that another process is at", flush=True)
                waiting_said = True
                time.sleep(POLL_SECONDS)
            todo = left

    def one(self, spec):
        """Outcome of a spec, run in this process; a failure that may be chance is tried once more."""
        if why := self.pointless(spec):
            return Outcome("failed", why)
        found = outcome(spec, self.output, self.force)
        if found.again:
            self.say_again(spec, found)
            found = outcome(spec, self.output)
        return found

    def pointless(self, spec):
        """Why it cannot be run: its training failed; else ""."""
        broken = spec.source and spec.source.folder(self.output) in self.failures
        return "not run, as its training failed" if broken else ""

    def say_again(self, spec, found):
        print(f"    {self.names[id(spec)]}: failed - {found.words}; tried once more", flush=True)

    def settled(self, spec, found):
        """Tell how a run ended; False: it is in other hands and must be looked at again."""
        if found.state == "busy":
            return False
        name, words = self.names[id(spec)], found.words
        if found.state == "failed":
            self.failures[spec.folder(self.output)] = (name, words)
            words = words if words.startswith("not run") else f"failed - {words}"
        if found.seconds:
            self.seconds.append(found.seconds)
            left = f", about {self.time_left()} left" if self.number + 1 < self.total else ""
            words += f" ({found.seconds:.0f} s{left})"
        self.number += 1
        self.say(f"[{self.number}/{self.total}] {name}: {words}")
        return True

    def say(self, line):
        print(line, flush=True)

    def time_left(self):
        each = sum(self.seconds) / len(self.seconds)
        return datetime.timedelta(seconds=round(each * (self.total - self.number - 1) / self.workers))

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


def told_apart(specs):
    """{id(spec): words}: a spec's own, and what else tells it from the others (protocol, data set, backbone, LLM,
    settings)."""
    facts = [f for f in ("protocol", "dataset", "backbone") if len({getattr(s, f) for s in specs}) > 1]
    names = {id(s): ", ".join([str(s), *(getattr(s, f) for f in facts)]) for s in specs}
    alike = {}
    for spec in specs:
        alike.setdefault(names[id(spec)], []).append(spec)
    for some in (some for some in alike.values() if len(some) > 1):
        each = [{k: str(v) for k, v in s.first.settings.items()} for s in some]
        differ = [k for k in dict.fromkeys(k for own in each for k in own) if len({own.get(k) for own in each}) > 1]
        for spec, own in zip(some, each):
            names[id(spec)] += "".join(f", {k.split('.')[-1]}={own.get(k)}" for k in differ)
    return names


def results_of(spec, output):
    return results_file(spec.folder(output), spec.split)


def accuracy_of(spec, output):
    """What its results say first, in words."""
    found = read(results_of(spec, output), {"metrics": {"accuracy": (int, float)}})
    return f"accuracy {found['metrics']['accuracy']:.1f}"


def finished(spec, output):
    """Whether its results are there and, for a test, are of its source's present training."""
    path = results_of(spec, output)
    if not path.is_file():
        return False
    if spec.source is None:
        return True
    source = results_of(spec.source, output)
    known = read_json_object(path).get("source_sha256")
    return known is None or not source.is_file() or known == sha256_file(source)


def outcome(spec, output, force=False):
    """Outcome of running a spec in this process, unless it is finished or in other hands."""
    folder, begin = spec.folder(output), time.time()
    if spec.source and not results_of(spec.source, output).is_file():
        return Outcome("busy")
    try:
        with claimed(folder):
            if finished(spec, output) and not force:
                return Outcome("done", "finished by another process meanwhile")
            reason, again = attempt(spec, folder, output, force)
            if reason:
                return Outcome("failed", reason, again=again)
            return Outcome("done", accuracy_of(spec, output), time.time() - begin)
    except Busy:
        return Outcome("busy")


def attempt(spec, folder, output, force):
    """Run it; returns ("", False), or in one line why it failed and whether that may be chance (an error that is not
    the user's; its traceback goes to error.txt)."""
    if force and folder.exists():
        shutil.rmtree(folder)
    source = spec.source.folder(output) if spec.source else ""
    try:
        run(spec, folder, model_dir=str(source), quiet=True)
    except UserError as error:
        return str(error), False
    except OSError as error:
        told = unwritable(error)
        return (unexpected(error, folder), True) if told is None else (str(told), False)
    except FloatingPointError as error:  # the same numbers would come again
        return unexpected(error, folder), False
    except Exception as error:  # out of memory, a loss that is not finite, a plugin's mistake: the others go on
        return unexpected(error, folder), True
    if not (there := results_file(folder, spec.split)).is_file():
        return (f"it wrote no {there.name}, which tables are made of: a trainer's own test() must call super().test(), "
                f"and TEST.NO_TEST stay False (what it printed: {folder / 'log.txt'})"), False  # fmt: skip
    return "", False


def unexpected(error, folder):
    """The words of an error that is not the user's; its traceback is kept."""
    write_text(traceback.format_exc(), folder / "error.txt")
    words = " ".join(str(error).split())[:160]
    return f"{type(error).__name__}: {words} (see {folder / 'error.txt'})"
