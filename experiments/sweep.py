"""A grid of settings, each a row of one table; chosen on val (then tested once), or shown on test for exploring."""

import itertools
import os
import shlex
from pathlib import Path

from dassl.utils.errors import ConfigError, UserError
from dassl.utils.io import sha256_of
from dassl.utils.paths import slug

from .collect import records
from .driver import finish
from .launch import Launch, resolved
from .settings import Request, base_config

WARNING = ("Settings are compared on the test part: good for exploring; choose on other images (--select val) before "
           "reporting a number.")  # fmt: skip


def combinations(grid):
    """[{key: value}] of all combinations, the last key changing fastest."""
    axes = []
    for word in grid:
        key, equals, values = word.partition("=")
        if not equals or not key or not values:
            raise ConfigError(f"{word!r}: write KEY=VALUE[,VALUE ...], e.g. OPTIM.LR=0.0025,0.01")
        axes.append([(key, v) for v in _values(values)])
    return [dict(chosen) for chosen in itertools.product(*axes)]


def _values(text):
    """The values between commas; commas inside brackets stay."""
    found, depth = [""], 0
    for c in text:
        depth += (c in "([{") - (c in ")]}")
        if c == "," and depth == 0:
            found.append("")
        else:
            found[-1] += c
    return found


def main(output, method="CILMP", dataset="", seeds=(), grid=(), protocol="few_shot", select="test", environ=None):
    """Run the grid; with select="val" the best setting on val is then tested, once. Returns the exit code."""
    if select not in ("test", "val"):
        raise ConfigError(f"--select {select}: choose val or test")
    env = dict(os.environ if environ is None else environ)
    output, settings = Path(output).absolute(), combinations(grid)
    requests = [_request(env, protocol, method, dataset, seeds, pairs, select) for pairs in settings]
    base, first = base_config(requests[0].plugins), requests[0]
    first.protocol.refuse(first.dataset, first.root, first.targets)
    if select == "val" and first.protocol.other_classes:
        raise ConfigError(f"--select val: {protocol} tests other classes, which must choose nothing; use few_shot")
    specs = resolved([spec for request in requests for spec in request.specs(base)])
    failed = Launch(specs, output, first.force).run_all()
    stem = f"sweep-{sha256_of([method, protocol, list(grid), select])[:8]}"
    words = WARNING if select == "test" else "Settings are compared on val; the chosen one is tested in its own table."
    title = f"{protocol} on {first.dataset}, {first.backbone}, {method}"
    table = finish(first.protocol, specs, output, first.targets, stem, title, [words])
    if select == "val":
        failed += tested(table, specs, output, first, stem)
    return 1 if failed else 0


def _request(env, protocol, method, dataset, seeds, pairs, select):
    words = [word for pair in pairs.items() for word in pair] + (["TEST.SPLIT", "val"] if select == "val" else [])
    options = f"{env.get('OPTS', '')} {shlex.join(words)}"
    label = " ".join(f"{k.split('.')[-1]}={v}" for k, v in pairs.items())
    return Request(protocol, method, dataset, seeds, {**env, "OPTS": options, "METHODS": method}, label or method)


def tested(table, specs, output, request, stem):
    """Test the setting that is best on val (mean of the first metric over seeds; the first of equals), for each number
    of shots, from the checkpoints that val judged."""
    metric = request.protocol.metrics[0]
    best = {}
    for row in table["data"]:
        mean = row["figures"][metric]["test"][0]
        if row["shots"] not in best or mean > best[row["shots"]][0]:
            best[row["shots"]] = (mean, row["label"])
    there = {(r["group"], r["seed"]) for r in records(output / request.protocol.name / slug(request.dataset), "val")}
    chosen = [s for s in specs if s.label == best.get(s.shots, (0, ""))[1] and (s.first.key, s.seed) in there]
    if not chosen:
        raise UserError("no setting has finished on val, so none can be tested")
    for shots, (mean, label) in sorted(best.items()):
        print(f"\nchosen on val, {shots} shots: {label} ({metric} {mean:.1f} on val)")
    tests = resolved([s.but(s.part, {"TEST.SPLIT": "test"}, source=s) for s in chosen])
    failed = Launch(tests, output, request.force).run_all()
    title = f"{request.protocol.name} on {request.dataset}, {request.backbone}, {request.methods[0]}: chosen on val"
    notes = ["The setting was chosen on val and tested once."]
    finish(request.protocol, tests, output, request.targets, f"{stem}-chosen", title, notes)
    return failed
