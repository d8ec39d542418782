"""All runs of a protocol in one process, then their table."""

from dassl.utils.errors import UserError
from dassl.utils.paths import output_root, slug

from . import formats, tables
from .collect import records
from .launch import Launch, resolved
from .pictures import draw
from .settings import base_config


def run_protocol(request, stem="table", output=None):
    """Run what a Request asks for, print and save its table; returns the number of failed runs."""
    output = output or output_root()
    request.protocol.refuse(request.dataset, request.root, request.targets)
    print(f"{request.protocol.name} on {request.dataset}: {', '.join(request.methods)}; backbone {request.backbone}")
    for note in request.notes():
        print(note)
    specs = resolved(request.specs(base_config(request.plugins)))
    failed = Launch(specs, output, request.force).run_all()
    finish(request.protocol, specs, output, request.targets, stem, notes=request.notes())
    return failed


def finish(protocol, specs, output, targets=(), stem="table", title="", notes=()):
    """The table (and picture) of all that is finished of these specs, whichever process and seed it was run with."""
    folder = output / protocol.name / slug(specs[0].first.dataset)
    table = table_of(protocol, specs, folder, targets, title, notes)
    if not table["rows"]:
        raise UserError("nothing finished, so there is no table; the reasons stand above")
    formats.save(table, folder, stem)
    print("\n" + formats.terminal(table))
    draw(protocol, table, folder / f"{stem}.png")
    print(f"\nWritten: {folder / f'{stem}.md'} (also .json, .csv, .tex); runs and logs are beside it")
    return table


def table_of(protocol, specs, folder, targets=(), title="", notes=()):
    wanted = [s for s in specs if not s.why_not]
    labels, place = {s.first.key: s.label for s in wanted}, {}
    for i, s in enumerate(wanted):
        place.setdefault(s.first.key, i)
        place.setdefault(s.key, i)
    split = wanted[0].split if wanted else "test"
    found = [r for r in records(folder, split) if r["group"] in labels]
    found.sort(key=lambda r: (place[r["group"]], r["seed"], place.get(r["key"], len(wanted))))
    for r in found:
        r["spec"]["label"] = labels[r["group"]]
    there = {(r["key"], r["seed"]) for r in found}
    missing = [s for s in wanted if (s.key, s.seed) not in there]
    facts = specs[0]
    title = title or f"{protocol.name} on {facts.dataset}, {facts.backbone}"
    return tables.build(protocol, found, title, missing, [s for s in specs if s.why_not], targets, notes)
