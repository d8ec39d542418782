"""What may lie beside a split: dataset.json (modality, note, lateral ...) and groups.csv (patients, lesions).

    dataset.json   {"modality": "chest X-ray image", "wording": {"normal": "normal lungs"}, "note": "...",
                    "lateral": true, "sources": ["nih-cxr"]}; every key may be absent
    groups.csv     file,group - a header line, then one line a file; equal group = same patient, lesion, slide

A split `x.json` that is not called split.json has its own `x.dataset.json`: two splits may share a folder.
"""

import csv
from pathlib import Path

from dassl.utils.errors import UserError
from dassl.utils.io import read_json

CONFOUNDED = "source-confounded, not a clinical result"
NOTES = {name: CONFOUNDED for name in ("covid_xray", "mixed_six", "blood_cells")}  # known trial sets, by folder name
SOURCES = {"covid_xray": ["nih-cxr", "cohen-covid"], "blood_cells": ["bccd"],
           "mixed_six": ["nih-cxr", "cohen-covid", "bccd"]}
KEYS = {"name": str, "modality": str, "modalities": dict, "wording": dict, "note": str, "lateral": bool,
        "sources": list}


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
    """{relative file: group id} for the `files` that a groups.csv speaks of; without one, the ids that the file
    names of a public set (`facts`) carry.

    Looked for beside the split, then in each top folder of the files under `base`, so that a split over
    several data sets (mixed_six) uses theirs; ids then carry that folder's name and can't collide.
    """
    files, groups = set(files), {}
    for top in sorted({f.split("/", 1)[0] for f in files if "/" in f}):
        if (table := Path(base) / top / "groups.csv").is_file():
            groups |= {f"{top}/{file}": f"{top}/{group}" for file, group in read_rows(table)}
    if (table := Path(split_path).parent / "groups.csv").is_file():
        groups |= dict(read_rows(table))
    if not groups and facts:
        return {file: group for file in files if (group := facts.group_of(file))}
    return {file: group for file, group in groups.items() if file in files}


def read_rows(path):
    """(file, group) pairs of a groups.csv; the first line is a header, further columns are ignored."""
    with open(path, encoding="utf-8-sig", newline="") as f:
        rows = list(csv.reader(f))[1:]
    for number, row in enumerate(rows, start=2):
        if row and (len(row) < 2 or not row[0].strip()):
            raise UserError(f"{path}: line {number} is {','.join(row)!r}; expected file,group")
    return [(row[0].strip(), row[1].strip()) for row in rows if row and row[1].strip()]
