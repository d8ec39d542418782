"""Which runs of a table there are none of, and the commands that make them. Known from the runs that are there."""

import shlex
from collections import defaultdict

from cilmp.protocols import PROTOCOLS

from .collect import trained_by
from .formats import plain

USUAL = ("demo", "vit_b16", "default")  # files of hyper-parameters that no flag chose, but for a protocol's own


def commands(found):
    """[cilmp study ...] that would complete records of one protocol and backbone: every method (setting) on every data
    set among them, with all numbers of shots among them and all seeds and parts of its set. Finished runs are kept, so
    a command may name more than is missing."""
    if not found:
        return []
    there = defaultdict(set)
    for r in found:
        first = trained_by(r)
        there[first["dataset"]].add((_row(r), first["shots"], r["seed"], r["spec"]["part"]))
    rows = dict.fromkeys(_row(r) for r in found)
    shots = {k for own in there.values() for _, k, _, _ in own}
    groups = defaultdict(list)
    for dataset, own in there.items():
        targets = tuple(sorted({r["spec"]["dataset"] for r in found if r["spec"]["source"]
                                and trained_by(r)["dataset"] == dataset} - {dataset}))  # fmt: skip
        for row in rows:
            if lacking := _lacking(row, own, shots):
                method, *flags = row
                groups[(tuple(flags), *lacking, targets, dataset)].append(method)
    together = defaultdict(list)  # data sets that lack the same
    for (*what, dataset), methods in groups.items():
        together[(*what, tuple(methods))].append(dataset)
    first = found[0]["spec"]
    return [_command(first, *key, datasets) for key, datasets in together.items()]


def _row(record):
    """(method, *flags) of a row: what tells it from other rows, as flags of the command."""
    spec, flags = record["spec"], []
    file, protocol = spec["file"], PROTOCOLS[spec["protocol"]]
    own_file = file not in (*USUAL, protocol.name, protocol.files)
    if own_file:
        flags += ["--cfg", file]
    elif spec["hparams"] in ("matched", "official") and spec["hparams"] != protocol.hparams:
        flags += ["--hparams", spec["hparams"]]
    if spec.get("weights"):
        flags += ["--weights", spec["weights"]]
    if spec.get("llm"):
        flags += ["--llms", spec["llm"]]
    if threads := (spec.get("settings") or {}).get("THREADS"):
        flags += ["--threads", str(threads)]
    if "code" in record.get("reads", {}):
        flags += ["--plugin", "FILE"]
    if spec["hparams"] == "custom" and not own_file:
        flags += ["--opts", "KEY VALUE ..."]
    return (spec["method"], *flags)


def _lacking(row, own, shots):
    """(shots, seeds) of which some part is missing; None where all are there."""
    parts, seeds = {part for *_, part in own}, {seed for _, _, seed, _ in own}
    gaps = [(k, s) for k in shots for s in seeds if any((row, k, s, part) not in own for part in parts)]
    return (tuple(sorted({k for k, _ in gaps})), tuple(sorted({s for _, s in gaps}))) if gaps else None


def _command(spec, flags, shots, seeds, targets, methods, datasets):
    words = ["cilmp", "study", "--protocols", spec["protocol"], "--methods", *methods, "--datasets", *datasets]
    words += ["--shots", *map(str, shots)] if -1 not in shots else []
    words += ["--seeds", *map(str, seeds), "--backbones", spec["backbone"]]
    words += ["--targets", *targets] if targets else []
    return shlex.join(map(plain, (*words, *flags)))
