"""All tables and pictures of output folders and archives, from the results in them."""

from pathlib import Path

from cilmp.protocols import PROTOCOLS
from dassl.utils.errors import MissingFile, UserError
from dassl.utils.io import write_text
from dassl.utils.paths import output_root, slug

from . import archive, calibration, over_sets, page, pairs, pictures, tables


def groups_of(found):
    """{(protocol, data set, backbone, split of the data): [record]} of what belongs into one table."""
    groups = {}
    for r in found:
        spec = r["spec"]
        if spec["protocol"] in PROTOCOLS:
            dataset = (spec["source"] or spec)["dataset"]
            data = r.get("reads", {}).get("split", "") if not spec["source"] else None
            groups.setdefault((spec["protocol"], dataset, spec["backbone"]), []).append((data, r))
    return {(*key, data): [r for _, r in entries if r["group"] in own]
            for key, entries in groups.items()
            for data in dict.fromkeys(d for d, _ in entries if d is not None)
            for own in [{r["group"] for d, r in entries if d == data}]}  # fmt: skip


def section(key, found, folder, several):
    """(Markdown of one table, its files written beside; the table); a table that must not be is one line that says
    why, and None."""
    name, dataset, backbone, data = key
    protocol = PROTOCOLS[name]
    marks = [data[:8]] if several and data else []
    stem = slug("-".join([name, dataset, backbone, *marks]))
    title = f"{name} on {dataset}, {backbone}" + (f" (data of split {marks[0]})" if marks else "")
    targets = tuple(dict.fromkeys(r["spec"]["dataset"] for r in found if r["spec"]["source"]
                                  and r["spec"]["dataset"] != dataset))  # fmt: skip
    try:
        table = tables.build(protocol, found, title, targets=targets)
    except UserError as error:
        return f"**{title}**: no table - {error}\n", None
    if not table["rows"]:
        return f"**{title}**: no method has finished all its parts\n", None
    tables.save(table, folder, stem)
    text = tables.markdown(table)
    table["pictures"] = pictures.of_one_table(protocol, table, found, folder, stem)
    text += f"\n{pictures.markdown(table['pictures'])}"
    return text + evidence(protocol, table, found, folder, stem), table


def evidence(protocol, table, found, folder, stem):
    """Markdown of what a table allows to be said, and its rows' calibration; all pairs are written beside."""
    table["calibration"] = calibration.of_rows(found, table["data"])
    pairs.save(table, folder, stem)
    said = pairs.answers(protocol, table)
    if said:
        said += ["On one data set; nothing is said of others."]
    if table["pairs"]:
        said += [f"All {len(table['pairs'])} pairs: [{stem}-statistics.md]({stem}-statistics.md)."]
    return "\n".join(["", *(f"{s}  " for s in said), "", calibration.markdown(table["calibration"])])


def over_data_sets(made, folder):
    """[(Markdown, what it is made of)] of what tables of one protocol and backbone say together; a data set with
    several tables (another split of its data) says nothing here."""
    groups = {}
    for (name, dataset, backbone, _), table in made.items():
        groups.setdefault((name, backbone), {}).setdefault(dataset, []).append(table)
    sections = []
    for (name, backbone), sets in groups.items():
        alone = {dataset: found[0] for dataset, found in sets.items() if len(found) == 1}
        if len(alone) > 1:
            stem = slug(f"{name}-over-sets-{backbone}")
            sections.append(over_sets.section(PROTOCOLS[name], backbone, alone, stem, folder))
    return [s for s in sections if s[0]]


def main(sources=(), to=""):
    """Write the report of output folders and archives ($OUTPUT, else the default) into a folder: `to`, else `report`
    in the first of them, beside an archive; returns the exit code."""
    sources = [Path(s).absolute() for s in sources] or [output_root()]
    place = sources[0] if sources[0].is_dir() else sources[0].parent
    folder = Path(to).absolute() if to else place / "report"
    with archive.opened(sources) as folders:
        return _write(groups_of(archive.merged(folders)), folder, sources)


def _write(groups, folder, sources):
    if not groups:
        raise MissingFile(f"no finished runs in {', '.join(map(str, sources))}; make some with: bash "
                          f"scripts/cilmp/base2new.sh")  # fmt: skip
    count = [key[:3] for key in groups]
    made = {key: section(key, found, folder, count.count(key[:3]) > 1) for key, found in groups.items()}
    together = over_data_sets({key: table for key, (_, table) in made.items() if table}, folder)
    texts = [text for text, _ in (*made.values(), *together)]
    write_text("\n".join(["# Report", "", *texts]), folder / "report.md")
    page.write(folder, made, groups, [content for _, content in together])
    print(f"{len(made)} tables. Written: {folder / 'report.md'}, {folder / 'index.html'}")
    return 0
