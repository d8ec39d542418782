#!/usr/bin/env python
"""All tables and pictures of an output folder, from the results.json files in it, into OUTPUT/report/.

    python scripts/report.py [OUTPUT]        (default: $OUTPUT, else output/ here)
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from dassl.utils.errors import MissingFile, UserError, run_main
from dassl.utils.io import write_text
from dassl.utils.paths import output_root, slug
from scripts.lib import table as tables
from scripts.lib.plan import finished_groups
from scripts.lib.plot import base2new_bars, few_shot_curves

PICTURES = {"few_shot": few_shot_curves, "base2new": base2new_bars}


def section(group, jobs, folder):
    """Markdown of one table, its files written beside; a table that must not be is one line that says why."""
    stem = slug(f"{group.protocol}-{group.dataset}-{group.backbone}")
    try:
        table = tables.build(group, jobs)
    except UserError as error:
        return f"**{group.protocol} on {group.dataset}, {group.backbone}**: no table - {error}\n"
    if not table["rows"]:
        return f"**{table['title']}**: no method has finished all its parts\n"
    tables.save(table, folder, stem)
    text = tables.markdown(table)
    if group.protocol in PICTURES:
        PICTURES[group.protocol](table, folder / f"{stem}.png")
        text += f"\n![{table['title']}]({stem}.png)\n"
    return text


def main(argv=None):
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("output", nargs="?", default=None)
    args = p.parse_args(argv)
    output = Path(args.output).absolute() if args.output else output_root()
    groups = finished_groups(output)
    if not groups:
        raise MissingFile(f"no finished runs in {output}; make some with: bash scripts/cilmp/base2new.sh")
    folder = output / "report"
    sections = [section(group, jobs, folder) for group, jobs in groups.items()]
    write_text("\n".join(["# Report", "", *sections]), folder / "report.md")
    print(f"{len(sections)} tables. Written: {folder / 'report.md'}")
    return 0


if __name__ == "__main__":
    run_main(main)
