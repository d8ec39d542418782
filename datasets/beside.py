"""What may lie beside a split: dataset.json (modality, note, lateral ...) and groups.csv (patients, lesions).

    dataset.json   {"modality": "chest X-ray image", "wording": {"normal": "normal lungs"}, "note": "...",
                    "lateral": true, "sources": ["nih-cxr"], "licence": "CC BY 4.0"}; every key may be absent
    groups.csv     file,group - a header line, then one line a file; equal group = same patient, lesion, slide
                   (`groups.from_table` says what else is understood)

A split `x.json` that is not called split.json has its own `x.dataset.json`: two splits may share a folder.
"""

from functools import cache
from pathlib import Path

from cilmp.datasets import groups
from dassl.utils.errors import UserError
from dassl.utils.io import read_json

CONFOUNDED = "source-confounded, not a clinical result"
NOTES = {name: CONFOUNDED for name in ("covid_xray", "mixed_six", "blood_cells")}  # known trial sets, by folder name
SOURCES = {"covid_xray": ["nih-cxr", "cohen-covid"], "blood_cells": ["bccd"],
           "mixed_six": ["nih-cxr", "cohen-covid", "bccd"]}
KEYS = {"name": str, "modality": str, "modalities": dict, "wording": dict, "note": str, "lateral": bool,
        "sources": list, "licence": str}


def facts_path(split_path):
    """Where the facts of a split file lie: dataset.json, or <stem>.dataset.json for another file name."""
    split_path = Path(split_path)
    own = split_path.with_name(f"{split_path.stem}.dataset.json")
    return split_path.with_name("dataset.json") if split_path.stem == "split" else own


def read_facts(split_path):
    """The dict in dataset.json ({} without one), with the note of a known trial set where it says none."""
    split_path = Path(split_path)
    path, facts = facts_path(split_path), {}
    if path.is_file():
        facts = read_json(path)
        if not isinstance(facts, dict):
            raise UserError(f"{path}: expected an object such as {{\"modality\": \"chest X-ray image\"}}")
        for key, kind in KEYS.items():
            if key in facts and not isinstance(facts[key], kind):
                raise UserError(f"{path}: {key!r} is {facts[key]!r}, not a {kind.__name__}")
    for folder in (split_path.parent, split_path.parent.resolve()):
        if folder.name in NOTES:
            said = facts.get("note", "")
            facts["note"] = said if NOTES[folder.name] in said else f"{said} {NOTES[folder.name]}".strip()
            facts.setdefault("sources", SOURCES[folder.name])
    return facts


def read_groups(split_path, base, files, facts=None):
    """{relative file: group id} of the `files`, as `find_groups`; where some have none, a line says so once."""
    ids = find_groups(split_path, base, files, facts)
    if ids.of and len(ids.of) < len(files) and are_ids(split_path):
        _say(f"note: {split_path}: {groups.counted(ids.of, len(files))}; each of the other images counts as a patient "
             f"of its own")
    return ids.of


@cache
def _say(line):
    print(line)  # a set is found several times in a run


def find_groups(split_path, base, files, facts=None):
    """The groups.Ids of the `files` by a groups.csv; without one, by the ids that the file names of a public set
    (`facts`) carry. A groups.csv that fits no file is a UserError.

    Looked for beside the split, then in each top folder of the files under `base`, so that a split over
    several data sets (mixed_six) uses theirs; ids then carry that folder's name and can't collide.
    """
    found, beside = groups.Ids(), Path(split_path).parent / "groups.csv"
    for top in sorted({f.split("/", 1)[0] for f in files if "/" in f}):
        if (table := Path(base) / top / "groups.csv").is_file() and table != beside:
            ids = groups.from_table(table, [f.removeprefix(f"{top}/") for f in files if f.startswith(f"{top}/")])
            found.of |= {f"{top}/{file}": f"{top}/{group}" for file, group in ids.of.items()}
            found.key, found.remarks = f"{top}/{ids.key}", found.remarks + ids.remarks
    if beside.is_file():
        ids = groups.from_table(beside, files)
        found = groups.Ids(found.of | ids.of, ids.key, found.remarks + ids.remarks)
    if not found.of and facts and facts.pattern:
        found = groups.Ids({file: group for file in files if (group := facts.group_of(file))}, facts.group)
    return found


def are_ids(split_path):
    """Whether the groups of a split are ids of patients, lesions ...: not where its preparation tied look-alikes."""
    path = facts_path(split_path)
    made = read_json(path).get("preparation", {}) if path.is_file() else {}
    return made.get("group_ids", not made.get("group_key", "").startswith("near duplicates"))  # before there was a flag
