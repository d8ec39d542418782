"""A study: methods x data sets x protocols x shots x seeds x backbones x LLMs x any keys, planned, run, tabled."""

import datetime
import itertools
import os
import shlex
import statistics
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from cilmp.protocols import PROTOCOLS, in_words
from dassl.utils.errors import ConfigError, UserError, unknown_name
from dassl.utils.io import sha256_of, write_text
from dassl.utils.paths import slug

from .collect import records
from .driver import finish
from .launch import Launch, finished, problems
from .reads import Reads
from .settings import CONFIGS, Request, base_config, every_method, paths, seeds_of, words
from .slurm import FLAGS, Slurm
from .workers import Pool, kind, measured

LISTS = ("methods", "datasets", "protocols", "shots", "seeds", "backbones", "llms", "targets")
VARIABLES = ("DATA", "WEIGHTS", "EPOCHS", "CFG", "HPARAMS", "THREADS", "PLUGIN", "OPTS", "FORCE")
LEFT_OUT = ("methods", "datasets", "protocols", "backbones", "llms")  # axes that leave_out may name
KEYS = (*LISTS, "set", "leave_out", "select", "workers", "launcher", "slurm", *(v.lower() for v in VARIABLES))
WARNING = ("Settings are compared on the test part: good for exploring; choose on other images (--select val) before "
           "reporting a number.")  # fmt: skip


@dataclass
class Study:
    """What is to be run.

    Attributes:
        name: of its tables and its folder under OUTPUT/studies.
        methods ... llms: words; an empty list is what `cilmp run` takes by default (protocols: at least one).
        grid: {configuration key: values}, whose product is run, or a list of such grids; a key of one method's own
            (TRAINER.CILMP.LAYERS) varies that method alone.
        leave_out: [{axis of LEFT_OUT: names}]: what is of all axes of a group is no part of the study.
        select: test, or val: the best of a method's settings on val is then tested, once.
        variables: {VARIABLE: text}, as `cilmp run` reads them from the environment.
    """

    name: str = "study"
    methods: list = field(default_factory=list)
    datasets: list = field(default_factory=list)
    protocols: list = field(default_factory=list)
    shots: list = field(default_factory=list)
    seeds: list = field(default_factory=list)
    backbones: list = field(default_factory=list)
    llms: list = field(default_factory=list)
    targets: list = field(default_factory=list)
    grid: dict = field(default_factory=dict)
    leave_out: list = field(default_factory=list)
    select: str = "test"
    workers: int = 1
    launcher: str = "local"  # or slurm
    slurm: dict = field(default_factory=dict)  # {flag of slurm.FLAGS: text}
    variables: dict = field(default_factory=dict)
    labelled: bool = False  # rows are called by the settings that vary

    def requests(self):
        """[Request], one for each protocol, data set, backbone, LLM and combination of the grid that some of the
        methods have."""
        if self.launcher not in ("local", "slurm"):
            raise ConfigError(f"--launcher {self.launcher}: choose local or slurm")
        if self.select not in ("test", "val"):
            raise ConfigError(f"--select {self.select}: choose val or test")
        if not isinstance(self.workers, int) or self.workers < 1:
            raise ConfigError(f"--workers {self.workers}: give a whole number above 0")
        methods, found = self._methods(), {}
        self._check_settings(methods)
        axes = (self.protocols, self.datasets or [""], self.backbones or [""], self.llms or [""])
        for protocol, dataset, backbone, llm in itertools.product(*axes):
            for pairs, some in self._settings(methods):
                request = self._request(protocol, dataset, backbone, llm, dict(pairs), some)
                request.methods = [m for m in request.methods if not self._left_out(request, m)]
                found[protocol, dataset, backbone, llm, pairs] = request
        if not (left := [request for request in found.values() if request.methods]):
            raise ConfigError("leave_out leaves nothing of this study")
        return left

    def _left_out(self, request, method):
        """Whether some group of leave_out has this method of a request."""
        own = {"methods": method, "datasets": request.dataset, "protocols": request.protocol.name,
               "backbones": request.backbone, "llms": request.llm}  # fmt: skip
        has = lambda axis, names: _alike(axis, own[axis]) in {_alike(axis, n) for n in names}  # noqa: E731
        return any(all(has(*pair) for pair in group.items()) for group in self.leave_out)

    def _check_settings(self, methods):
        """Raise ConfigError of a key that is one method's own, and none of this study's."""
        nodes = {method.upper() for method in methods}
        for key in (key for grid in grids(self.grid) for key in grid):
            if key.startswith("TRAINER.") and key.split(".")[1] not in nodes:
                raise ConfigError(f"set: {key} is a setting of no method of this study ({', '.join(methods)}); add its "
                                  f"method, or leave it out")  # fmt: skip

    def _methods(self):
        base_config(paths(self.variables.get("PLUGIN", "")))  # registers theirs
        return every_method() if self.methods in ([], ["all"]) else list(dict.fromkeys(self.methods))

    def _settings(self, methods):
        """[(pairs of a combination, the methods it is for)]."""
        found = {}
        for chosen in (c for grid in grids(self.grid) for c in combinations(grid)):
            for method in methods:
                own = tuple((k, v) for k, v in chosen if not k.startswith("TRAINER.")
                            or k.split(".")[1] == method.upper())  # fmt: skip
                some = found.setdefault(own, [])
                some += [method] if method not in some else []
        return list(found.items())

    def _request(self, protocol, dataset, backbone, llm, pairs, methods):
        opts = [w for pair in pairs.items() for w in pair] + (["TEST.SPLIT", "val"] if self.select == "val" else [])
        env = {
            **self.variables, "METHODS": " ".join(methods), "SHOTS": " ".join(map(str, self.shots)),
            "TARGETS": " ".join(self.targets), "OPTS": f"{self.variables.get('OPTS', '')} {shlex.join(opts)}",
            **({"BACKBONE": backbone} if backbone else {}), **({"LLM": llm} if llm else {}),
        }  # fmt: skip
        setting = " ".join(f"{k.split('.')[-1]}={v}" for k, v in pairs.items())
        return Request(protocol, "", dataset, self.seeds, env, setting if self.labelled else "")


def grids(said):
    """[{key: values}] of what `set` says: one grid or a list of them."""
    found = list(said) if isinstance(said, (list, tuple)) and said else [said or {}]
    if wrong := [grid for grid in found if not isinstance(grid, dict)]:
        raise ConfigError(f"set: {wrong[0]!r} is no grid; write KEY: [VALUE, ...] pairs, or a list of such groups")
    return found


def combinations(grid):
    """[((key, value), ...)] of the product of a grid's values."""
    return itertools.product(*([(k, v) for v in values] for k, values in grid.items()))


def study_of(tree, source, name="study"):
    """The Study of {key: value}, the words of `cilmp study` as keys; `source` names errors.

    Raises ConfigError where a key is unknown or an axis has no value.
    """
    if unknown := [k for k in tree if k not in KEYS]:
        raise unknown_name(f"key of a study ({source})", unknown[0], KEYS)
    lists = {key: _words(tree[key], key, source) for key in LISTS if key in tree}
    if "seeds" in lists:
        seeds, bad = seeds_of(lists["seeds"])
        if bad:
            raise ConfigError(
                f"{source}: seeds: {bad[0]!r} is no seed; write whole numbers (0, 1 ...) or a range, 1-5"
            )
        lists["seeds"] = list(map(str, seeds))
    found = [{str(key): _listed(v) for key, v in grid.items()} for grid in grids(tree.get("set"))]
    if empty := [key for grid in found for key, values in grid.items() if not values]:
        raise ConfigError(f"{source}: set: {empty[0]} has no value; give at least one, or leave the key out")
    variables = {v: word for v in VARIABLES if (word := _word(tree.get(v.lower()), v.lower(), source))}
    rest = {key: tree[key] for key in ("select", "workers", "launcher") if key in tree}
    slurm = _pairs(tree.get("slurm"), "slurm", FLAGS, source)
    slurm = {flag: word for flag, value in slurm.items() if (word := _word(value, f"slurm: {flag}", source))}
    leave_out = [{axis: _words(names, f"leave_out: {axis}", source)
                  for axis, names in _pairs(group, "leave_out", LEFT_OUT, source).items()}
                 for group in _groups(tree.get("leave_out"))]  # fmt: skip
    if {} in leave_out:
        raise ConfigError(f"{source}: a group of leave_out names nothing; write e.g. {{datasets: BUSI, protocols: "
                          f"base2new}}")  # fmt: skip
    return Study(name, grid=found if len(found) > 1 else found[0], variables=variables, slurm=slurm,
                 leave_out=leave_out, **lists, **rest)  # fmt: skip


def check_leave_out(leave_out, tree, source):
    """Raise UnknownName of a name in leave_out that is not among those of its axis in the file that says so (where it
    names none: among all methods, all protocols)."""
    every = {"methods": every_method(), "protocols": list(PROTOCOLS)}
    for group in leave_out:
        for axis, names in group.items():
            there = _listed(tree.get(axis))
            there = every.get(axis, []) if there in ([], ["all"]) else there
            same = {_alike(axis, n) for n in there}
            if there and (unknown := [n for n in names if _alike(axis, n) not in same]):
                raise unknown_name(f"name in leave_out: {axis} ({source})", unknown[0], there)


def _alike(axis, name):
    """A name of an axis in the spelling that all of its spellings share."""
    from cilmp.datasets import canonical

    return (canonical(name) if axis == "datasets" else name).lower()


def _groups(said):
    return said if isinstance(said, list) else [] if said is None else [said]


def _pairs(tree, what, known, source):
    """{key: value} of known keys; ConfigError or UnknownName else."""
    if not isinstance(tree or {}, dict):
        raise ConfigError(f"{source}: {what}: {tree!r} says nothing; write KEY: VALUE pairs ({', '.join(known)})")
    if unknown := [k for k in tree or {} if k not in known]:
        raise unknown_name(f"key of {what} ({source})", unknown[0], known)
    return tree or {}


def _word(value, key, source):
    """One value as a variable's text: "" for none and false, 1 for true."""
    if isinstance(value, (list, tuple, dict)):
        raise ConfigError(f"{source}: {key}: {value!r} is not one value; give one")
    return "1" if value is True else "" if value is None or value is False else str(value)


def _words(value, key, source):
    """The words of an axis, one at least."""
    every = value if isinstance(value, (list, tuple)) else [value]
    if wrong := [v for v in every if isinstance(v, (list, tuple, dict))]:
        raise ConfigError(f"{source}: {key}: {wrong[0]!r} is no word; write a list of words, [A, B]")
    if not (found := _listed(value)):
        raise ConfigError(f"{source}: {key} has no value; give at least one, or leave the key out")
    return found


def _listed(value):
    """A list of words: a list as it is, text at its blanks, anything else alone."""
    if isinstance(value, (list, tuple)):
        return [str(v) for v in value]
    return words(str(value)) if isinstance(value, str) else [] if value is None else [str(value)]


def presets():
    """{name: yaml file} of the studies that come with the toolbox."""
    return {p.stem: p for p in sorted((CONFIGS / "studies").glob("*.yaml"))}


def preset_file(name):
    """The yaml file of a preset; UnknownName with the nearest."""
    there = presets()
    if name not in there:
        raise unknown_name("preset", name, there)
    return there[name]


class Plan:
    """The specs of a study on this machine: resolved, what is done, and what cannot be run and why."""

    def __init__(self, study, output, make=True):
        self.study, self.output, self.make, self.cannot, self.to_make = study, Path(output), make, [], []
        self.requests = study.requests()
        self.specs = self._resolved(self._specs())

    def _specs(self):
        base = base_config(self.requests[0].plugins)
        found, refused = {}, set()
        for request in self.requests:
            try:
                request.protocol.refuse(request.dataset, request.root, request.targets)
                if self.study.select == "val" and request.protocol.other_classes:
                    raise ConfigError(f"--select val: {request.protocol.name} tests other classes, which must choose "
                                      f"nothing; use few_shot")  # fmt: skip
            except UserError as error:
                if str(error) not in refused:
                    self.cannot.append(f"{request.protocol.name} on {request.dataset}: {error}")
                refused.add(str(error))
                continue
            for spec in request.specs(base):
                found.setdefault((spec.part, spec.seed, str(spec.settings), spec.root), spec)
        order = {seed: i for i, seed in enumerate(self.requests[0].seeds)}
        return sorted(found.values(), key=lambda spec: order[spec.seed])  # tables fill up evenly

    def _resolved(self, specs):
        reads, found = Reads(plan=not self.make), []
        for why, affected in problems(specs, self.make):
            self.cannot.append(f"{why} ({len(affected)} runs)")
            stopped = set(map(id, affected))
            specs = [s for s in specs if id(s) not in stopped]
        for spec in specs:
            try:
                found.append(spec.resolved(reads))
            except UserError as error:
                line = f"{spec.method} on {spec.dataset}: {error}"
                self.cannot += [line] if line not in self.cannot else []
        self.to_make = list(reads.to_make)
        return found

    def groups(self):
        """{(protocol, data set, backbone): [spec]}: a table each."""
        found = {}
        for spec in self.specs:
            found.setdefault((spec.first.protocol, spec.first.dataset, spec.backbone), []).append(spec)
        return found

    def table(self):
        """(header, rows) of what is planned, done, left, and how long that will take by finished runs of its kind."""
        known, rows = measured(self.output, "train_seconds"), []
        for (protocol, dataset, backbone), specs in self.groups().items():
            wanted = [s for s in specs if not s.why_not]
            left = [s for s in wanted if not finished(s, self.output)]
            methods = len({s.method for s in wanted})
            rows.append([protocol, dataset, backbone, methods, len(wanted), len(wanted) - len(left), len(left),
                         estimate(left, known, self.study.workers)])  # fmt: skip
        return ["protocol", "data set", "backbone", "methods", "runs", "done", "left", "about"], rows

    def show(self):
        from tabulate import tabulate

        header, rows = self.table()
        print(tabulate(rows, headers=header, disable_numparse=True))
        for group in self.study.leave_out:
            print(f"left out, as the study says: {'; '.join(' '.join([axis, *some]) for axis, some in group.items())}")
        for line in self.to_make:
            print(f"made first: {line}")
        for line in self.cannot:
            print(f"not ready: {line}")


def estimate(specs, known, workers=1):
    """Words for the time that runs will take: of the median of finished runs of their kind; "?" where there are none,
    "+ ?" for those among others."""
    if not specs:
        return "-"
    each = [statistics.median(known[kind(s)]) if kind(s) in known else None for s in specs]
    if all(e is None for e in each):
        return "?"
    seconds = round(sum(e for e in each if e is not None) / workers)
    return f"{datetime.timedelta(seconds=seconds)}{' + ?' if None in each else ''}"


def run_study(study, output, dry=False, script_only=False):
    """Show the plan, run what is missing, write the tables; returns the exit code: 1 where a run failed or could not
    be planned.

    Args:
        dry: the plan alone. script_only: print the script of a cluster's job, which is written, and submit nothing.
    """
    plan = Plan(study, output, make=not dry)
    if script_only:
        launch = launch_of(plan.specs, output, study)
        print(launch.written(launch.unfinished()).read_text(encoding="utf-8"), end="")
        return 0
    plan.show()
    if dry:
        return 1 if plan.cannot else 0
    if not plan.specs:
        raise UserError("no run of this study is possible; the reasons stand above")
    launch = launch_of(plan.specs, output, study)
    launch.run_all()
    failures = list(launch.failures.values())
    for key, specs in plan.groups().items():
        failures += _tables(study, plan, key, specs)
    return _ended(study, plan, failures, Path(output))


def launch_of(specs, output, study):
    force = study.variables.get("FORCE", "") not in ("", "0")
    if study.launcher == "slurm":
        return Slurm(specs, output, force, study.name, study.slurm)
    return Pool(specs, output, force, study.workers) if study.workers > 1 else Launch(specs, output, force)


def _tables(study, plan, key, specs):
    """Write the table of one protocol, data set and backbone (and test what val chose); returns what failed."""
    asked = [r for r in plan.requests if (r.protocol.name, r.dataset, r.backbone) == key]
    protocol, targets = asked[0].protocol, asked[0].targets
    stem = slug(study.name if len({k[:2] for k in plan.groups()}) == len(plan.groups()) else f"{study.name}-{key[2]}")
    notes = list(dict.fromkeys(note for request in asked for note in request.notes()))
    if study.select == "val":
        notes.append("Settings are compared on val; the chosen one is tested in its own table.")
    elif study.grid:
        notes.append(WARNING)
    title = f"{key[0]} on {key[1]}, {key[2]}" + (f", {study.methods[0]}" if len(study.methods) == 1 else "")
    try:
        table = finish(protocol, specs, plan.output, targets, stem, title, notes)
        return chosen_on_val(study, protocol, targets, table, specs, plan.output, stem) if study.select == "val" else []
    except UserError as error:
        print(f"{title}: no table - {error}")
        return []


def chosen_on_val(study, protocol, targets, table, specs, output, stem):
    """Test the setting of each method that is best on val (mean of the first metric over seeds; the first of equals),
    for each number of shots, from the checkpoints that val judged; returns what failed."""
    metric, best = protocol.metrics[0], {}
    for row in table["data"]:
        mean = row["figures"][metric]["test"][0]
        place = (row["method"], row["shots"])
        if place not in best or mean > best[place][0]:
            best[place] = (mean, row["label"], row["group"])
    there = {(r["group"], r["seed"]) for r in records(output / protocol.name / slug(specs[0].dataset), "val")}
    groups = {group for _, _, group in best.values()}
    chosen = [s for s in specs if not s.why_not and s.first.key in groups and (s.first.key, s.seed) in there]
    for (_, shots), (mean, label, _) in sorted(best.items()):
        print(f"\nchosen on val, {in_words(shots)}: {label} ({metric} {mean:.1f} on val)")
    reads = Reads()
    tests = [s.but(s.part, {"TEST.SPLIT": "test"}, source=s).resolved(reads) for s in chosen]
    launch = launch_of(tests, output, study)
    launch.run_all()
    name = ", ".join(dict.fromkeys(s.method for s in specs))
    title = f"{protocol.name} on {specs[0].dataset}, {specs[0].backbone}, {name}: chosen on val"
    notes = ["The setting was chosen on val and tested once."]
    finish(protocol, tests, output, targets, f"{stem}-chosen", title, notes)
    return list(launch.failures.values())


def _ended(study, plan, failures, output):
    """Say what failed and where all tables are; returns the exit code."""
    lines = [f"{name}: {why}" for name, why in failures] + [f"not ready: {c}" for c in plan.cannot]
    listed = output / "studies" / f"{slug(study.name)}-failed.txt"
    if lines:
        print(f"\n{len(failures)} runs failed, {len(plan.cannot)} reasons kept others from running:")
        print("\n".join(f"  {line}" for line in lines))
        write_text("\n".join(lines) + "\n", listed)
    else:
        listed.unlink(missing_ok=True)  # an earlier command's
    return 1 if lines else 0


def name_of(study):
    """A name by what a study asks for, where none was given."""
    facts = [getattr(study, name) for name in (*LISTS, "grid", "select", "variables")]
    return f"study-{sha256_of(facts)[:8]}"


def _anywhere(variable, text):
    """A variable's text that means the same in any folder."""
    whole = lambda path: os.path.abspath(os.path.expanduser(path))  # noqa: E731
    if variable == "DATA" or (variable == "CFG" and text.endswith(".yaml")):
        return whole(text)
    if variable == "PLUGIN":
        return shlex.join(whole(p) if Path(p).expanduser().exists() else p for p in paths(text))
    return text


def save(study, output):
    """Keep what was asked for beside the results: OUTPUT/studies/<name>.yaml, which `cilmp study FILE` takes; not
    FORCE, as whoever takes it goes on."""
    tree = {key: getattr(study, key) for key in LISTS if getattr(study, key)}
    more = {"set": study.grid, "leave_out": study.leave_out, "slurm": study.slurm}
    tree |= {key: value for key, value in more.items() if value}
    tree |= {key: getattr(study, key) for key in ("select", "workers", "launcher")}
    tree |= {variable.lower(): _anywhere(variable, text) for variable, text in study.variables.items()
             if variable != "FORCE"}  # fmt: skip
    write_text(yaml.safe_dump(tree, sort_keys=False), Path(output) / "studies" / f"{slug(study.name)}.yaml")
