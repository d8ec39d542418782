"""Which runs of a table there are none of, and the commands that make them. Known from the runs that are there."""

import shlex
from collections import defaultdict

from cilmp.protocols import PROTOCOLS
from dassl.utils.io import sha256_of

from .changed import changed, own_file, written
from .collect import tested_on, trained_by
from .formats import plain


def commands(found):
    """[cilmp study ...] that would complete records of one protocol and backbone: every method (setting) on every data
    set among them, with all numbers of shots among them and all seeds and parts of its set. Finished runs are kept, so
    a command may name more than is missing."""
    there, rows, trained = defaultdict(set), {}, {r["group"]: r for r in found if not r["spec"]["source"]}
    for r in found:
        first = trained_by(r)
        row = _row(trained.get(r["group"], r))
        rows.setdefault(row, trained.get(r["group"], r))
        there[first["dataset"]].add((row, first["shots"], r["seed"], r["spec"]["part"]))
    shots = {k for own in there.values() for _, k, _, _ in own}
    together = defaultdict(lambda: defaultdict(list))  # {what is missing: {data set: methods}}
    for dataset, own in there.items():
        targets = tuple(sorted({tested_on(r) for r in found if trained_by(r)["dataset"] == dataset} - {dataset}))
        for row in rows:
            if lacking := _lacking(row, own, shots):
                flags, settings = _flags(row, rows[row])
                together[settings, (flags, *lacking, targets)][dataset].append(row[0])
    lines = defaultdict(list)  # data sets that lack the same methods
    for (settings, what), sets in together.items():
        for dataset, methods in sets.items():
            lines[settings, (*what, tuple(methods))].append(dataset)
    grids = defaultdict(list)  # values of one key
    for (settings, what), datasets in lines.items():
        alone = settings[0][0] if len(settings) == 1 and _simple(settings[0][1]) else settings
        grids[alone, what, tuple(datasets)].append(settings)
    return [_command(found[0]["spec"], *what, datasets, _grid(some)) for (_, what, datasets), some in grids.items()]


def _row(record):
    """(method, *what tells its row from other rows)."""
    spec = record["spec"]
    facts = spec["hparams"], own_file(record), spec.get("weights") or "", spec.get("llm") or "", _threads(spec)
    return (spec["method"], *facts, _own_settings(spec) if spec["hparams"] == "custom" else "")


def _threads(spec):
    return (spec.get("settings") or {}).get("THREADS") or 0


def _own_settings(spec):
    """A hash of what somebody changed in a row: its settings without what the data set and the seed say."""
    return sha256_of({k: v for k, v in spec["settings"].items() if k != "SEED" and not k.startswith("DATASET.")})


def _flags(row, record):
    """(flags, ((key, value) that was changed, ...)) of the command that makes a row."""
    spec, flags = record["spec"], []
    _, hparams, file, weights, llm, threads, own = row
    if file:
        flags += ["--cfg", file]
    elif hparams in ("matched", "official") and hparams != PROTOCOLS[spec["protocol"]].hparams:
        flags += ["--hparams", hparams]
    for flag, value in (("--weights", weights), ("--llms", llm), ("--threads", threads)):
        flags += [flag, str(value)] if value else []
    if "code" in record.get("reads", {}):
        flags += ["--plugin", "FILE"]
    own = changed(record) if own else {}
    if own is None:
        flags += ["--opts", "KEY VALUE ..."]
    return tuple(flags), tuple((key, written(value)) for key, value in (own or {}).items())


def _grid(some):
    """Words for the settings of rows: the values of one key together; in --opts what --set would take for two."""
    values = {key: dict.fromkeys(dict(own)[key] for own in some) for key, _ in some[0]}
    simple = {key: ",".join(own) for key, own in values.items() if all(map(_simple, own))}
    alone = [word for key, own in values.items() if key not in simple for word in (key, *own)]
    axes = [word for key, own in simple.items() for word in ("--set", f"{key}={own}")]
    return [*axes, *(["--opts", shlex.join(alone)] if alone else [])]


def _simple(value):
    """Whether --set KEY=value is one value: not empty, no comma outside brackets."""
    return value[:1] in tuple("([{") or (value != "" and "," not in value)


def _lacking(row, own, shots):
    """(shots, seeds) of which some part is missing; None where all are there."""
    parts, seeds = {part for *_, part in own}, {seed for _, _, seed, _ in own}
    gaps = [(k, s) for k in shots for s in seeds if any((row, k, s, part) not in own for part in parts)]
    return (tuple(sorted({k for k, _ in gaps})), tuple(sorted({s for _, s in gaps}))) if gaps else None


def _command(spec, flags, shots, seeds, targets, methods, datasets, grid):
    words = ["cilmp", "study", "--protocols", spec["protocol"], "--methods", *methods, "--datasets", *datasets]
    words += ["--shots", *map(str, shots)] if -1 not in shots else []
    words += ["--seeds", *map(str, seeds), "--backbones", spec["backbone"]]
    words += ["--targets", *targets] if targets else []
    return shlex.join(map(plain, (*words, *flags, *grid)))
