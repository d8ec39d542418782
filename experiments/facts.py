"""report/methods.md: what a paper's methods section and a reviewer's checklist need, filled from the runs.

Nothing is made up: what neither results.json nor a run's predictions nor our table of public sets says is "not known".
"""

from collections import defaultdict

import numpy as np

from cilmp.protocols import PROTOCOLS, in_words
from dassl.evaluation.figures import BINS, RESAMPLES
from dassl.utils.errors import UserError

from . import formats, statistics
from .changed import changed
from .collect import tested_on, trained_by
from .predictions import read
from .tables import cell_of

UNKNOWN = "**not known**"
SHOWN, MOST = 8, 100  # different values of one fact; experiments whose changed settings are looked at
ASKED = {
    "Purpose": "study question, intended use and users, whether the study looked back or ahead",
    "Ethics and data": "approval, consent, dates and places of collection, how cases were chosen and left out, how "
                       "names were removed, scanners and protocols",
    "Participants": "age, sex, how ill; how far they differ from those the method is meant for",
    "Reference standard": "who labelled, from what, how experienced, how far readers agree",
    "Sample size": "why so many; the toolbox plans none",
    "Use of the test images": "whether anybody looked at test figures before settings were fixed; the runs can't tell",
    "Limits": "harm of errors of either kind, fairness over groups of patients, cost of use",
    "Access": "where code, settings and weights of this study are; funding, conflicts of interest",
}  # fmt: skip


def markdown(groups, made, metrics=()):
    """The page, of {table's key: [record]} and {table's key: (text, table or None)}."""
    found = [r for own in groups.values() for r in own]
    lines = ["# Methods, as far as the runs know them", "",
             f"Filled from {len(found)} finished runs. {UNKNOWN} marks what they do not say and a paper must; the last "
             "section lists what no run can know.", ""]  # fmt: skip
    sections = {
        "Data": _data(found), "Protocols, partitions and seeds": _protocols(found), "Model": _model(found),
        "Methods and hyper-parameters": _methods(found), "Hardware and software": _machines(found),
        "Evaluation": _evaluation(found, [table for _, table in made.values() if table], metrics),
    }  # fmt: skip
    for title, own in sections.items():
        lines += [f"## {title}", "", *own, ""]
    lines += ["## What no run knows", "", "Checklists for studies of medical imaging with AI (CLAIM, MI-CLAIM) ask for "
              "this, too:", ""]  # fmt: skip
    return "\n".join([*lines, *(f"- {name}: {UNKNOWN} ({what})." for name, what in ASKED.items())]) + "\n"


def listed(values):
    """Different values in words; not known where there are none."""
    names = list(dict.fromkeys(_words(v) for v in values if v not in (None, "", [], {})))
    more = [f"{len(names) - SHOWN} more"] if len(names) > SHOWN else []
    return ", ".join([*map(formats.md, names[:SHOWN]), *more]) or UNKNOWN


def _words(value):
    return " ".join(map(formats.plain, value)) if isinstance(value, (list, tuple)) else formats.plain(value)


def numbered(values):
    """Numbers from-to; not known where there are none."""
    there = sorted(v for v in values if v is not None)
    return "-".join(f"{n:,}" for n in dict.fromkeys((*there[:1], *there[-1:]))) or UNKNOWN


# ---- data


def _data(found):
    """A row a data set and subset of its classes that was tested; then what is published of the set."""
    from cilmp.datasets import TABLE

    tested = {}
    for r in found:
        tested.setdefault((tested_on(r), r["subset"]), []).append(r)
    rows = [[formats.md(dataset), formats.md(subset), *_tested(own), _trained(own)]
            for (dataset, subset), own in sorted(tested.items())]  # fmt: skip
    lines = formats.grid(["data set", "classes", "test images", "patients or groups", "test images a class",
                          "train / val images"], rows)  # fmt: skip
    for dataset in sorted({d for d, _ in tested}):
        facts, notes = TABLE.get(dataset), listed(r.get("source_note") for r in found if tested_on(r) == dataset)
        said = [f"source, licence and partition {UNKNOWN}"]
        if facts:
            said = [f"source {facts.home}", f"licence {facts.licence}", f"partition: {facts.partition}",
                    f"patients or groups: {facts.group}"]  # fmt: skip
        said += [] if notes == UNKNOWN else [notes.rstrip(".")]
        lines += ["", f"{formats.md(dataset)}: {'; '.join(said)}."]
    left = sorted({(tested_on(r), part, n) for r in found for part, n in (r.get("left_out") or {}).items() if n})
    lines += ["", "Unreadable images left out: " + ("; ".join(f"{n} of {formats.md(d)}, {p}" for d, p, n in left)
                                                    or "none") + "."]  # fmt: skip
    hashes = defaultdict(set)
    for r in found:
        own = {r["split_sha256"]} if r.get("split_sha256") else set()
        hashes[r["spec"]["protocol"], trained_by(r)["dataset"], cell_of(r)] |= own
    differ = any(len(own) > 1 for own in hashes.values())
    return [*lines, f"Hashes of the image lists are in each run's results.json (`split_sha256`, `test_sha256`); "
            f"{'runs of one cell DIFFER in them' if differ else 'they agree in every cell'}."]  # fmt: skip


def _tested(records):
    """[test images, patients, images a class] of records tested on one part of a data set."""
    counts = list(dict.fromkeys(tuple((formats.plain(c), v["n"]) for c, v in (r.get("per_class") or {}).items())
                                for r in records))  # fmt: skip
    classes = UNKNOWN
    if len(counts) == 1 and counts[0]:
        numbers = {n for _, n in counts[0]}
        classes = f"{len(counts[0])} x {numbers.pop():,}" if len(numbers) == 1 else \
            ", ".join(f"{formats.md(c)} {n:,}" for c, n in counts[0])  # fmt: skip
    return [numbered(r.get("n") for r in records), _groups(records), classes]


def _groups(records):
    """Number of patients of the test images, from the first predictions that hold them."""
    for r in records[:3]:
        try:
            groups = read(r).groups
        except UserError:
            continue
        if len(groups):
            return f"{len(np.unique(groups)):,}"
    return UNKNOWN


def _trained(records):
    parts = [r["parts"] for r in records if r.get("parts") and not r["spec"]["source"]]
    return f"{numbered(p.get('train') for p in parts)} / {numbered(p.get('val') for p in parts)}" if parts else UNKNOWN


# ---- what was run


def _protocols(found):
    lines = []
    for name in dict.fromkeys(r["spec"]["protocol"] for r in found):
        own = [r for r in found if r["spec"]["protocol"] == name]
        protocol, settings = PROTOCOLS[name], [r["spec"]["settings"] for r in own]
        of = lambda key, settings=settings: listed(s.get(key) for s in settings)  # noqa: E731
        shots = sorted({trained_by(r)["shots"] for r in own}, key=lambda k: k if k > 0 else np.inf)
        seeds = sorted({r["seed"] for r in own})
        lines += [f"- **{name}** ({protocol.summary}) on {listed(sorted({trained_by(r)['dataset'] for r in own}))}: "
                  f"{', '.join(map(in_words, shots))}; seeds {' '.join(map(str, seeds))}; shots drawn "
                  f"{of('DATASET.SHOT_SAMPLING')} over classes; tested: {of('TEST.FINAL_MODEL')}; judged on "
                  f"{listed(r['split'] for r in own)}."]  # fmt: skip
        if few := len(seeds) if len(seeds) < statistics.SEEDS else 0:
            lines += [f"  {few} seed{'s' if few > 1 else ''}: fewer than {statistics.SEEDS}, which show large "
                      "differences alone."]  # fmt: skip
    return lines


def _model(found):
    settings = [r["spec"]["settings"] for r in found]
    of = lambda key: listed(s.get(key) for s in settings)  # noqa: E731
    lines = []
    for name in dict.fromkeys(r["spec"]["backbone"] for r in found):
        runs = [r for r in found if r["spec"]["backbone"] == name]
        hashes = [(r.get("reads") or {}).get("weights", "")[:16] for r in runs]
        lines.append(f"- Backbone {formats.md(name)}: weights {listed(r.get('weights') or 'of its name' for r in runs)}"
                     f"; SHA-256 {listed(hashes)}; towers in {listed(r.get('precision') for r in runs)}.")
    llms = [r for r in found if r.get("llm")]
    return [*lines, f"- Images: size {of('INPUT.SIZE')}, {of('INPUT.RESIZE_MODE')}, {of('INPUT.INTERPOLATION')}, mean "
            f"{of('INPUT.PIXEL_MEAN')}, deviation {of('INPUT.PIXEL_STD')}; set by the user: "
            f"{listed(v for r in found for v in r.get('input_set_by_user') or ()).replace(UNKNOWN, 'nothing')}.",
            f"- Language model: {listed(r['llm'] for r in llms)}, read by "
            f"{listed(r['spec']['method'] for r in llms)}." if llms else "- Language model: none."]  # fmt: skip


HYPER = {"optimiser": "OPTIM.NAME", "learning rate": "OPTIM.LR", "weight decay": "OPTIM.WEIGHT_DECAY",
         "schedule": "OPTIM.LR_SCHEDULER", "epochs": "OPTIM.MAX_EPOCH", "batch": "DATALOADER.TRAIN_X.BATCH_SIZE",
         "augmentation": "INPUT.TRANSFORMS"}  # fmt: skip


def _methods(found):
    """A row a method: whose values, by which file, and those that papers name; the rest is in config.yaml."""
    rows = defaultdict(list)
    for r in found:
        if not r["spec"]["source"]:
            rows[r["spec"]["method"]].append(r)
    table = []
    for method, own in sorted(rows.items()):
        settings = [r["spec"]["settings"] for r in own]
        fitted = all(r["cost"].get("steps") in (0, "fitted") for r in own)
        values = ["-" if fitted else listed(s.get(key) for s in settings) for key in HYPER.values()]
        steps = numbered(n for r in own if isinstance(n := r["cost"].get("steps"), int))
        table.append([formats.md(method), _values(own), _followed(own),
                      "-" if fitted else steps, *values])  # fmt: skip
    lines = formats.grid(["method", "values", "source", "steps", *HYPER], table)
    return [*lines, "", "official: the authors' own; matched: CoOp's number of steps, all else a method's own; custom: "
            "changed for this study, say how; demo: of the demo backbone. Every value stands in each run's "
            "config.yaml and in results.json (`spec.settings`). How values were chosen: " + UNKNOWN
            + " beyond these sources."]  # fmt: skip


def _values(records):
    """Whose values a method's runs have, and what was changed in them."""
    words = listed(r["spec"]["hparams"] for r in records)
    custom = {r["group"]: r for r in records if r["spec"]["hparams"] == "custom"}.values()
    said = [changed(r) for r in list(custom)[:MOST]]
    keys = dict.fromkeys(k for one in said if one for k in one)
    own = [f"{formats.md(k)}: {listed(str(one[k]) for one in said if one and k in one)}" for k in keys]
    return words + (f" ({'; '.join(own) or UNKNOWN})" if custom else "")


def _followed(records):
    """Where the values come from: the authors' repositories, by configs/sources.yaml."""
    from .sources import reason, sources

    content, said = sources(), []
    for r in records:
        for name in [r["spec"]["file"], *(["tuned"] if r.get("tuned") else [])]:
            said += [f"ours: {reason('demo')}"] if name == "demo" else []
            entry = content["files"].get(f"{r['spec']['method']}/{name}.yaml", {})
            for one in entry.get("follows", ()):
                repository = content["repositories"].get(one["from"], {})
                said.append(f"{repository.get('at', one['from'])} at {repository.get('commit', '?')[:12]}")
            said += [f"ours: {reason(entry['ours'])}"] if entry.get("ours") else []
    return listed(said)


# ---- where and how


def _machines(found):
    facts = lambda key: listed(r.get(key) for r in found)  # noqa: E731
    names = {r.get("device"): [] for r in found}
    for r in found:
        names[r.get("device")].append(r.get("device_name"))
    devices = "; ".join(f"{listed([d])}: {listed(own)}" for d, own in names.items())
    packages = defaultdict(list)
    for r in found:
        for package, version in (r.get("versions") or {}).items():
            packages[package].append(version)
    versions = ", ".join(f"{formats.md(p)} {listed(sorted(set(v)))}" for p, v in packages.items()) or UNKNOWN
    hours = sum(r["cost"].get("train_seconds") or 0 for r in found) / 3600
    memory = [r["cost"].get("peak_memory_mib") for r in found]
    return [f"- Device: {devices}; threads {facts('threads')}; system {facts('platform')}.",
            f"- Trainings took {hours:.1f} hours in all; peak memory of a process up to "
            f"{max((m for m in memory if m), default=0):,.0f} MiB.",
            f"- Software: {versions}; this toolbox at commit {facts('git')}."]  # fmt: skip


def _evaluation(found, tables, metrics):
    shown = dict.fromkeys(metrics or [m for t in tables for row in t["data"] for m in row["figures"]])
    units = {p["unit"] for t in tables for p in t["pairs"]}
    without = sum(not t["pairs"] and len(t["data"]) > 1 for t in tables)
    cells = [row for t in tables for row in t.get("calibration", ())]  # a method and part each
    scaled = sum(bool(row.get("scaled")) for row in cells)
    names = [formats.md(formats.measure(m).title) for m in shown]
    lines = [
        f"- Figures: {', '.join(names) or UNKNOWN}; mean ± standard deviation over seeds (dividing by n). All that a "
        "run recorded is in its results.json.",
        f"- Interval of one run: 95 %, percentile bootstrap of {RESAMPLES:,} draws over "
        f"{listed('patients' if r.get('ci_unit') == 'group' else 'images' for r in found if r.get('ci_unit'))}.",
        f"- Pairs of methods: differences on the same {' or '.join(sorted(f'{u}s' for u in units)) or 'images'} and "
        "seeds, 95 % t intervals with seeds and units crossed, p corrected by Holm over the pairs of a figure, column "
        "and number of shots (docs/statistics.md has the formulas and their check by simulation)."
        + (f" {without} tables without predictions have no such comparison." if without else ""),
        f"- Over data sets: average ranks; Friedman's and Nemenyi's tests from {statistics.FRIEDMAN} sets, Wilcoxon's, "
        f"Holm-corrected, from {statistics.WILCOXON}.",
        f"- Calibration: NLL, Brier score, ECE of {BINS} equal bins, class-wise ECE; temperature scaling: "
        + (f"one temperature a run, fitted on the split's whole validation part, never on test images, for {scaled} of "
           f"{len(cells)} methods and parts." if scaled else "not done."),
    ]  # fmt: skip
    if any(r.get("transductive") for r in found):
        names = listed(r["spec"]["method"] for r in found if r.get("transductive"))
        lines.append(f"- {names}: saw all test images at once, without labels; the others answered image by image.")
    if any(r.get("tuned") for r in found):
        names = listed(r["spec"]["method"] for r in found if r.get("tuned"))
        lines.append(f"- {names}: with values that its authors tuned for the very data set.")
    return lines
