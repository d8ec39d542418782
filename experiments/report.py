"""All tables and pictures of output folders and archives, from the results in them."""

import copy
from pathlib import Path

from cilmp.protocols import PROTOCOLS
from dassl.evaluation.figures import METRICS
from dassl.utils.errors import MissingFile, UserError, unknown_name
from dassl.utils.io import write_text
from dassl.utils.paths import output_root, slug

from . import archive, calibration, facts, formats, kinds, missing, over_sets, page, pairs, pictures, tables
from .collect import tested_on, trained_by

NAMED = 5  # runs that a line names


def groups_of(found):
    """{(protocol, data set, backbone, split of the data): [record]} of what belongs into one table."""
    groups = {}
    for r in found:
        spec = r["spec"]
        if spec["protocol"] in PROTOCOLS:
            data = r.get("reads", {}).get("split", "") if not spec["source"] else None
            groups.setdefault((spec["protocol"], trained_by(r)["dataset"], spec["backbone"]), []).append((data, r))
    return {(*key, data): [r for _, r in entries if r["group"] in own]
            for key, entries in groups.items()
            for data in dict.fromkeys(d for d, _ in entries if d is not None)
            for own in [{r["group"] for d, r in entries if d == data}]}  # fmt: skip


def left_out(found, groups):
    """[line] of runs that are in no table, and why."""
    there = {id(r) for own in groups.values() for r in own}
    why = {}
    for r in found:
        if id(r) not in there:
            name = r["spec"]["protocol"]
            reason = "tests whose training run is not among the results" if name in PROTOCOLS else \
                f"runs of protocol {name}, which there is no file of in protocols/"  # fmt: skip
            why.setdefault(reason, []).append(tables.name_of(r))
    return [f"Left out, {len(names)} {reason}: {'; '.join(names[:NAMED])}{' ...' if len(names) > NAMED else ''}."
            for reason, names in why.items()]  # fmt: skip


def showing(name, metrics):
    """The protocol of that name; with `metrics` (if any) in place of its own."""
    protocol = copy.copy(PROTOCOLS[name])
    protocol.metrics = tuple(metrics) or protocol.metrics
    return protocol


def check_metrics(metrics, found):
    """UnknownName of a metric that no result has."""
    recorded = dict.fromkeys(m for r in found for m in r["metrics"])
    for name in metrics:
        if name not in recorded:
            raise unknown_name("metric", name, recorded or METRICS, "results have no other")


def section(key, found, folder, several, metrics=(), wanted=tuple(formats.FORMATS)):
    """(Markdown of one table, its files written beside; the table); a table that must not be is one line that says
    why, and None."""
    name, dataset, backbone, data = key
    protocol = showing(name, metrics)
    marks = [data[:8]] if several and data else []
    stem = slug("-".join([name, dataset, backbone, *marks]))
    title = f"{name} on {dataset}, {backbone}" + (f" (data of split {marks[0]})" if marks else "")
    targets = tuple(d for d in dict.fromkeys(map(tested_on, found)) if d != dataset)
    try:
        table = tables.build(protocol, found, title, targets=targets)
    except UserError as error:
        return f"**{formats.md(title)}**: no table - {formats.md(error)}\n", None
    table["commands"] = missing.commands(found)
    if not table["rows"]:
        commands = [f"    {c}" for c in table["commands"]]
        return "\n".join([f"**{formats.md(title)}**: no method has finished all its parts", "", *commands, ""]), None
    formats.save(table, folder, stem, wanted)
    text = formats.markdown(table)
    drawn = pictures.of_one_table(protocol, table, found, folder, stem) if formats.in_files(wanted) else []
    table |= {"protocol": protocol, "pictures": drawn}
    text += f"\n{pictures.markdown(table['pictures'])}"
    return text + evidence(protocol, table, found, folder, stem, wanted), table


def evidence(protocol, table, found, folder, stem, wanted=tuple(formats.FORMATS)):
    """Markdown of what a table allows to be said, and its rows' calibration; all pairs are written beside."""
    table["calibration"] = calibration.of_rows(found, table["data"])
    pairs.save(table, folder, stem, wanted)
    said = [formats.md(s) for s in pairs.answers(protocol, table)]
    if said:
        said += ["On one data set; nothing is said of others."]
    if table["pairs"] and "md" in wanted:
        said += [f"All {len(table['pairs'])} pairs: [{stem}-statistics.md]({stem}-statistics.md)."]
    return "\n".join(["", *(f"{s}  " for s in said), "", calibration.markdown(table["calibration"])])


def over_data_sets(made, groups, folder, metrics=(), wanted=tuple(formats.FORMATS)):
    """[(Markdown, the table or summaries)] of what tables of one protocol and backbone say together, and what their
    trainings cost; a data set with several tables (another split of its data) is no part of the first."""
    sets, found = {}, {}
    for key, (_, table) in made.items():
        name, dataset, backbone, _ = key
        found.setdefault((name, backbone), []).extend(groups[key])
        sets.setdefault((name, backbone), {}).setdefault(dataset, []).append(table)
    sections = []
    for (name, backbone), own in sets.items():
        protocol, runs = showing(name, metrics), found[name, backbone]
        alone = {dataset: some[0] for dataset, some in own.items() if len(some) == 1 and some[0]}
        used = [r for r in runs if trained_by(r)["dataset"] in alone]
        more = kinds.of_protocol(protocol, backbone, alone, used)
        every = [table for some in own.values() for table in some if table]
        more += [("cost", cost)] if (cost := kinds.cost(protocol, backbone, every, runs)) else []
        for kind, table in more:
            formats.save(table, folder, slug(f"{name}-{kind}-{backbone}"), wanted)
            sections.append((formats.markdown(table), table))
        if len(alone) > 1:
            stem = slug(f"{name}-over-sets-{backbone}")
            sections.append(over_sets.section(protocol, backbone, alone, stem, folder, formats.in_files(wanted)))
    return [s for s in sections if s[0]]


def main(sources=(), to="", metrics=(), wanted=()):
    """Write the report of output folders and archives ($OUTPUT, else the default) into a folder: `to`, else `report`
    in the first of them, beside an archive; returns the exit code.

    Args:
        metrics: names in results.json to show in place of each protocol's own.
        wanted: formats of the tables; none: all files.
    """
    wanted = formats.chosen(wanted)
    sources = [Path(s).absolute() for s in sources] or [output_root()]
    place = sources[0] if sources[0].is_dir() else sources[0].parent
    folder = Path(to).absolute() if to else place / "report"
    with archive.opened(sources) as folders:
        found = archive.merged(folders)
        check_metrics(metrics, found)
        groups = groups_of(found)
        return _write(groups, folder, sources, metrics, wanted, left_out(found, groups))


def _write(groups, folder, sources, metrics=(), wanted=tuple(formats.FORMATS), left=()):
    print(*map(formats.plain, left), sep="\n", end="\n" if left else "")
    if not groups:
        raise MissingFile(f"no finished runs in {', '.join(map(str, sources))}; make some with: bash "
                          f"scripts/cilmp/base2new.sh")  # fmt: skip
    count = [key[:3] for key in groups]
    made = {key: section(key, found, folder, count.count(key[:3]) > 1, metrics, wanted)
            for key, found in groups.items()}  # fmt: skip
    together = over_data_sets(made, groups, folder, metrics, wanted)
    write_text(facts.markdown(groups, made, metrics), folder / "methods.md")
    about = "All of it, with every run: [index.html](index.html). What a methods section and a reviewer's checklist " \
            "need, as far as the runs know it: [methods.md](methods.md)."  # fmt: skip
    texts = [text for text, _ in (*made.values(), *together)]
    lines = ["# Report", "", about, "", *(f"{formats.md(line)}  " for line in left), "", *texts]
    write_text("\n".join(lines), folder / "report.md")
    page.write(folder, made, groups, [content for _, content in together])
    written = (folder / name for name in ("index.html", "report.md", "methods.md"))
    print(f"{len(made)} table{'' if len(made) == 1 else 's'}. Written: {', '.join(map(str, written))}")
    return 0
