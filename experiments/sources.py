"""Our settings against the authors' own files: what each follows is said in configs/sources.yaml.

    UPSTREAM=FOLDER[:FOLDER ...] python -m cilmp.experiments.sources [--write]

FOLDER is a checkout of an authors' repository, under the repository's name, or holds such checkouts. Every value of a
file that one of ours follows is compared, and every value of ours is theirs or says where it comes from; what differs
is listed with our reason. A difference without a reason, a reason without a difference and a missing checkout are
errors. --write makes docs/methods/settings.md of the list.
"""

import argparse
import ast
import os
import re
import subprocess
from functools import cache
from pathlib import Path

import yaml

from dassl.config import keys_of, merge_from_file
from dassl.utils.errors import ConfigError, MissingFile, UserError, run_main
from dassl.utils.io import write_text
from dassl.utils.paths import REPO

from .settings import CONFIGS, Request, base_config, tuned

PAGE = REPO / "docs" / "methods" / "settings.md"
TUNED = "tuned.yaml"


@cache
def sources():
    """The content of configs/sources.yaml."""
    return yaml.safe_load((CONFIGS / "sources.yaml").read_text(encoding="utf-8"))


def reason(word):
    """A reason in words: one of `reasons` by its name, or what is written."""
    return sources()["reasons"].get(word, word)


# ---- ours


@cache
def ours(file, protocol="", dataset=""):
    """{dotted key: value} of a file of configs/trainers over the defaults; of a tuned.yaml, of a run it is made for."""
    method = file.split("/")[0]
    if dataset:
        request = Request(protocol, method, dataset, [1], {"BACKBONE": "BiomedCLIP"})
        cfg = request.spec(base_config(), method, 16, 1).config
    else:
        cfg = base_config()
        for name in [*sources()["files"][file].get("after", ()), file]:
            merge_from_file(cfg, CONFIGS / "trainers" / name)
    return {key: _value(cfg, key) for key in keys_of(cfg)}


def _value(cfg, key):
    for part in key.split("."):
        cfg = cfg[part]
    return _plain(cfg)


def _plain(value):
    """A value as the two sides are compared: literals read, lists as tuples, numbers as numbers."""
    if isinstance(value, str):
        try:
            value = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            return value
    if isinstance(value, (list, tuple)):
        return tuple(map(_plain, value))
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else value


def said(file):
    """Keys that a file of ours sets."""
    content = yaml.safe_load((CONFIGS / "trainers" / file).read_text(encoding="utf-8"))
    if not file.endswith(TUNED):
        return dict.fromkeys(key for key, _ in _leaves(content))
    sets = [values for parts in content.values() for sets in parts.values() for values in sets.values()]
    return dict.fromkeys(key for values in sets for key in values)


def cases(file, entry):
    """(source, protocol, data set) of all that a file is compared with; a tuned.yaml: a case a data set."""
    for source in entry.get("follows", ()):
        if not file.endswith(TUNED):
            yield source, "", ""
            continue
        for dataset in tuned(file.split("/")[0])["BiomedCLIP"][source["protocol"]]:
            words = sources()["sets"][dataset]
            put = lambda text, words=words: text.replace("{set}", words[0]).replace("{reader}", words[1])  # noqa: E731
            find = {key: put(pattern) for key, pattern in source.get("find", {}).items()}
            yield source | {"path": put(source["path"]), "find": find}, source["protocol"], dataset


# ---- theirs


def checkouts(upstream):
    """{repository's name: folder} of the checkouts that UPSTREAM names or that lie in what it names."""
    known, found = {row["at"].split("/")[1]: name for name, row in sources()["repositories"].items()}, {}
    for folder in map(Path, filter(None, upstream.split(os.pathsep))):
        if not folder.expanduser().is_dir():
            raise MissingFile(f"UPSTREAM: there is no folder {folder}")
        for place in (folder.expanduser(), *sorted(folder.expanduser().iterdir())):
            if place.name in known and place.is_dir():
                found.setdefault(known[place.name], place)
    wanted = {s["from"] for entry in sources()["files"].values() for s in entry.get("follows", ())}
    if missing := sorted(wanted - {*found}):
        at = ", ".join(sources()["repositories"][name]["at"] for name in missing)
        raise MissingFile(f"UPSTREAM has no checkout of {at}: clone it, and name its folder or the one around it")
    return found


@cache
def text_of(folder, commit, path):
    """A file of a checkout as it was at a commit, whichever is checked out."""
    shown = subprocess.run(["git", "-C", str(folder), "show", f"{commit}:{path}"], capture_output=True, text=True)
    if shown.returncode:
        why = shown.stderr.strip().splitlines()[-1]
        raise MissingFile(f"{folder}: no {path} at commit {commit[:10]} ({why}); fetch that commit")
    return shown.stdout


def theirs(source, folder):
    """{our dotted key: their value} of a source: all values of a yaml, or those that `find` looks for."""
    row = sources()["repositories"][source["from"]]
    text = text_of(folder, row["commit"], source["path"])
    translate = {(type(k), k): _plain(v) for k, v in row.get("values", {}).items()}  # True is no 1
    if source.get("find"):
        found = {}
        for key, pattern in source["find"].items():
            if (match := re.search(pattern, text, re.S)) is None:
                raise ConfigError(f"configs/sources.yaml: nothing in {source['path']} is like {pattern!r} ({key})")
            found[key] = _plain(match[1])
    else:
        found = dict(_leaves(yaml.safe_load(text)))
    names = row.get("keys", {}) | source.get("keys", {})
    renamed = {_renamed(key, names): value for key, value in found.items()}
    left_out = _not_compared() | set(row.get("not_compared", ()))
    return {k: translate.get((type(v), v), v) for k, v in renamed.items() if k not in left_out}


def _not_compared():
    return {key for keys in sources()["not_compared"].values() for key in keys}


def _renamed(key, names):
    """Our name of their key: by the table, whole or its beginning."""
    if key in names:
        return names[key]
    return next((new + key[len(old) :] for old, new in names.items() if old.endswith(".") and key.startswith(old)), key)


def _leaves(tree, prefix=""):
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", _plain(value)


# ---- both


def compare(upstream):
    """[(file, key, {their values}, {our values}, reason)] of what differs, in the order of sources.yaml, and how many
    values were compared.

    Raises:
        UserError: differences without a reason, or reasons without a difference, a line each.
    """
    folders, rows, wrong, count = checkouts(upstream), [], [], 0
    for file, entry in sources()["files"].items():
        differ, seen = {}, set()
        for source, protocol, dataset in cases(file, entry):
            own = ours(file, protocol, dataset)
            for key, value in theirs(source, folders[source["from"]]).items():
                count += 1
                seen.add(key)
                if key not in own or own[key] != value:
                    pair = differ.setdefault(key, (set(), set()))
                    pair[0].add(value)
                    pair[1].add(own.get(key, "no such key"))
        reasons = entry.get("differs", {})
        wrong += [f"{file}: {key} is {shown(there)} there, {shown(here)} here: say why in sources.yaml"
                  for key, (there, here) in differ.items() if key not in reasons]  # fmt: skip
        wrong += [f"{file}: {key} does not differ: take it out of sources.yaml" for key in reasons if key not in differ]
        left_out = {*sources()["beyond"], *_not_compared(), *entry.get("beyond", ())}
        wrong += [f"{file}: no source says {key}: say where it comes from in sources.yaml"
                  for key in said(file) if "ours" not in entry and key not in seen | left_out]  # fmt: skip
        wrong += [f"{file}: {key} is said by a source, or not by us: take it out of `beyond`"
                  for key in entry.get("beyond", ()) if key in seen or key not in said(file)]  # fmt: skip
        rows += [(file, key, *differ[key], reason(why)) for key, why in reasons.items() if key in differ]
    if wrong:
        raise UserError("; ".join(wrong))
    return rows, count


def shown(values):
    """Values in words, numbers without a needless .0."""
    return ", ".join(sorted((_shown(v) for v in values), key=lambda text: (len(text), text)))


def _shown(value):
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, tuple):
        return f"[{', '.join(map(_shown, value))}]"
    return str(value) if value != "" else '""'


def page(rows, count):
    """The text of docs/methods/settings.md."""
    table = sources()
    lines = [
        "# Settings beside their sources", "",
        "Which of the authors' files each of ours follows, and every value in which they differ, with the reason.", "",
        "Written by `python -m cilmp.experiments.sources --write`, `UPSTREAM` naming the folder of these checkouts;",
        "the list of sources and reasons is [`configs/sources.yaml`](../../configs/sources.yaml). "
        f"{count:,} values were compared; {len(rows)} keys differ.", "",
        "| repository | commit |", "|---|---|",
        *(f"| {row['at']} | `{row['commit'][:10]}` |" for row in table["repositories"].values()), "",
        "Not compared, as something else says them here:", "",
        *(f"- {why}: {', '.join(f'`{key}`' for key in keys)}" for why, keys in table["not_compared"].items()), "",
        "## Differences", "",
        "| file | key | there | here | why |", "|---|---|---|---|---|",
        *(f"| {file} | `{key}` | {shown(a)} | {shown(b)} | {why} |" for file, key, a, b, why in rows), "",
        "## Values of ours that no compared file says", "",
        "| file | key | where it comes from |", "|---|---|---|",
        *(f"| {file} | `{key}` | {reason(why)} |" for file, entry in table["files"].items()
          for key, why in entry.get("beyond", {}).items()), "",
        f"And, of no influence: {', '.join(f'`{key}`' for key in table['beyond'])}.", "",
        "## Sources", "",
        "| file | follows |", "|---|---|",
        *(f"| {file} | {followed(entry)} |" for file, entry in table["files"].items()),
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def followed(entry):
    """What a file follows, in words."""
    if "ours" in entry:
        return f"ours: {reason(entry['ours'])}"
    rows = sources()["repositories"]
    return "; ".join(dict.fromkeys(f"{rows[s['from']]['at']}: `{s['path']}`" for s in entry["follows"]))


def main(argv=None):
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--write", action="store_true", help=f"write {PAGE.relative_to(REPO)}")
    args = p.parse_args(argv)
    if not (upstream := os.environ.get("UPSTREAM", "")):
        raise UserError("set UPSTREAM to the folder of the authors' checkouts (several: with : between them)")
    rows, count = compare(upstream)
    text = page(rows, count)
    if args.write:
        write_text(text, PAGE)
        print(f"written: {PAGE}")
    else:
        print(text)
    return 0


if __name__ == "__main__":
    run_main(main)
