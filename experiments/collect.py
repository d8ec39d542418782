"""Results on disk as a list of records: results.json and what it says of its run. Nothing is learned from elsewhere."""

from pathlib import Path

from dassl.utils.errors import UserError
from dassl.utils.io import misfit, read_json_object, sha256_of


def results_file(folder, split="test"):
    """Where a run writes its results: only the final test is results.json."""
    return Path(folder) / ("results.json" if split == "test" else f"results_{split}.json")


def records(output, split="test", quiet=False):
    """[results.json content, with its `spec` and `folder`] of all finished runs below a folder, by path; a file that
    cannot be read is named and left out."""
    found = []
    for path in sorted(Path(output).rglob(results_file("", split).name)):
        try:
            content = read_json_object(path)
            record = content if "spec" in content else before_specs(content, path)
            check(record)
        except (UserError, KeyError, TypeError, ValueError, IndexError) as error:
            if not quiet:
                why = str(error) if isinstance(error, UserError) else f"it is not a run's results ({error!r})"
                print(f"warning: left out {path}: {why}")
            continue
        found.append({**record, "folder": path.parent})
    return found


NUMBER = (int, float, type(None))
FORM = {"key": str, "group": str, "seed": int, "dataset": str, "subset": str, "split": str, "shots": int, "n": int,
        "metrics": dict, "cost": dict}  # fmt: skip
SPEC = {"protocol": str, "part": str, "method": str, "dataset": str, "shots": int, "seed": int, "backbone": str,
        "file": str, "label": str, "hparams": str, "settings": dict, "source": (dict, type(None))}  # fmt: skip
COST = dict.fromkeys(("trainable_parameters", "seconds_per_step", "peak_memory_mib"), NUMBER)
OPTIONAL = ("per_class", "versions", "reads", "parts", "left_out", "ci95")  # dicts, where they are


def check(record):
    """Raise UserError where a record lacks what tables read, or has another kind of it."""
    _check(record, FORM, "")
    check_spec(record)
    _check(record["cost"], COST, "cost.")
    there = [name for name in OPTIONAL if record.get(name) is not None]
    _check(record, dict.fromkeys(there, dict), "")
    numbers = ["metrics", *({"parts", "left_out"} & set(there))]
    for name in numbers:
        _check(record[name], dict.fromkeys(record[name], NUMBER), f"{name}.")


def check_spec(record):
    """Raise UserError where what a record's run is can't be told from its spec."""
    _check(record, {"spec": dict}, "")
    _check(record["spec"], SPEC, "spec.")
    if record["spec"]["source"]:
        _check(record["spec"]["source"], {"dataset": str}, "spec.source.")


def _check(content, form, place):
    if words := misfit(content, form, place):
        raise UserError(f"it is not a run's results ({words})")


def read(path, form):
    """The content of a results.json of which this form is read; UserError with the path where it does not fit."""
    content = read_json_object(path)
    if words := misfit(content, form):
        raise UserError(f"{path}: it is not a run's results ({words}); remove that folder and run it again")
    return content


def trained_by(record):
    """{dataset, shots} of the run that trained what a record's run tested; its own where it trained itself."""
    spec = record["spec"]
    source = spec["source"] or spec
    return {"dataset": source["dataset"], "shots": source.get("shots", spec["shots"])}


def tested_on(record):
    """The data set whose images a run was tested on."""
    return (record["spec"].get("settings") or {}).get("DATASET.TEST_ON") or record["dataset"]


def before_specs(content, path):
    """A result written before runs had a spec (schema 1): its protocol, part and settings were in its path alone,
    <protocol>/<dataset>/<method>/<backbone>/shots<k>/<file>-<hash>/seed<s>/<part>."""
    protocol, dataset, _, _, shots, name, _, part = path.parent.parts[-8:]
    target = protocol == "cross_dataset" and part.startswith("test_")
    spec = {
        "protocol": protocol, "part": part, "file": name.rpartition("-")[0], "label": "", "subset": content["subset"],
        "shots": int(shots.removeprefix("shots").replace("-all", "-1")), "settings": {"hash": name},
        "dataset": content["dataset"], "weights": content.get("weights") or "",
        **{k: content[k] for k in ("method", "seed", "split", "backbone", "llm", "hparams")},
        "source": {"dataset": content.get("source_dataset", dataset)} if target else None,
    }  # fmt: skip
    group = sha256_of([str(path.parents[2]), name])
    return {**content, "spec": spec, "key": group, "group": group}
