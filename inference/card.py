"""The model card of a bundle: what it was trained on, how good it was, what it must not be used for."""

from collections import Counter

import yaml

from cilmp.experiments.formats import grid, md, rounded

NOT_FOR = """**No medical device.** It was trained for research and has been examined by no authority. It must not be
used to diagnose, to treat, to screen, or to decide anything about a person.

- It knows {n} classes and answers with one of them whatever it is shown: an image of none of them, of another kind,
  device, hospital or population gets an answer all the same, often a sure one.
- Its probabilities are {calibrated}; a probability is not the risk of a person.
- The figures below are of one test part of one data set. They say nothing about other images.
- Whoever uses it answers for the licences of the data, the backbone and the language model."""


def card(results, kept, bundle, calibrated_on=""):
    """The text of README.md.

    Args:
        results, kept: contents of results.json and kept.json. bundle: facts of bundle.json.
        calibrated_on: what calibration.json was fitted on, "" without one.
    """
    spec = results["spec"]
    not_for = NOT_FOR.format(n=len(kept["classes"]), calibrated=_calibrated(calibrated_on))
    parts = {"Not for": not_for, "Trained on": _data(results, kept), "Results": _results(results), "Use": _use(bundle),
             "What is inside": _inside(results, bundle)}  # fmt: skip
    begin = [_head(spec), f"# {md(spec['method'])} on {md(spec['dataset'])}", _what(results, kept)]
    return "\n\n".join(begin + [f"## {title}\n\n{text}" for title, text in parts.items()]) + "\n"


def _head(spec):
    facts = {"library_name": "cilmp", "pipeline_tag": "image-classification",
             "tags": ["medical", "research-only", spec["method"]]}  # fmt: skip
    return f"---\n{yaml.safe_dump(facts, sort_keys=False).strip()}\n---"


def _what(results, kept):
    spec = results["spec"]
    llm = f", with what {spec['llm'].rpartition('/')[2]} says of the classes" if spec.get("llm") else ""
    kind, names = md(kept.get("modality") or "images"), ", ".join(map(md, kept["classes"]))
    return (f"A classifier of {kind} into {len(kept['classes'])} classes: the method {spec['method']} of the CILMP "
            f"toolbox on the backbone {spec['backbone']}{llm}. Classes: {names}.")  # fmt: skip


def _calibrated(on):
    if not on:
        return "not calibrated"
    return "calibrated on " + ("the validation part of its data set" if on == "whole val" else md(on))


def _data(results, kept):
    spec, trained = results["spec"], kept["trained_on"]
    labels = trained["labels"]
    counts = {part: Counter(values) for part, values in labels.items()}
    rows = [[md(name), str(counts["train_x"][c]), str(counts["val"][c])] for c, name in enumerate(trained["classes"])]
    kind = "all images" if spec["shots"] < 1 else f"{spec['shots']} images a class"
    words = f"{md(spec['dataset'])}, protocol {spec['protocol']}, {kind}, seed {spec['seed']}"
    if spec.get("source"):
        words += f"; trained as {spec['source']['part']} on {md(spec['source']['dataset'])}, tested as {spec['part']}"
    note = " ".join(filter(None, [results.get("source_note", ""), kept.get("licence", ""), kept.get("home", "")]))
    table = "\n".join(grid(["class", "train", "val"], rows))
    return f"{words}.{' ' + md(note) if note else ''}\n\n{table}"


def _results(results):
    metrics = results.get("metrics")
    if not metrics:
        return "None: it was fitted from Python and tested on nothing."
    part = "test" if results["split"] == "test" else f"{results['split']} (no test images were looked at)"
    bounds = results.get("ci95") or {}
    rows = [[md(name.replace("_", " ")), rounded(name, value),
             " to ".join(rounded(name, v) for v in bounds.get(name) or ())]
            for name, value in metrics.items() if value is not None]  # fmt: skip
    unit = {"group": "patients (groups)", "image": "images"}.get(results.get("ci_unit"), "")
    classes = [[md(name), *(_percent(v[key]) for key in ("accuracy", "precision", "f1")), str(v["n"])]
               for name, v in results["per_class"].items()]  # fmt: skip
    said = f"{results['n']} images of its {part} part; percent, but for kappas. Intervals: bootstrap over {unit}."
    tables = [grid(["figure", "value", "95 % interval"], rows),
              grid(["class", "accuracy", "precision", "F1", "images"], classes)]  # fmt: skip
    return "\n\n".join([said, *map("\n".join, tables)])


def _percent(value):
    return "" if value is None else f"{value:.1f}"


def _use(bundle):
    plugin = ", plugin=['my_method.py']" if bundle.get("code") else ""
    code = f'import cilmp\n\nmodel = cilmp.load("FOLDER OF THIS FILE"{plugin})\nprint(model.predict(["a.png"]))'
    return (f"```python\n{code}\n```\n\nOr `cilmp predict FOLDER IMAGE ...`. Every file is compared with its hash in "
            f"`bundle.json` first.")  # fmt: skip


def _inside(results, bundle):
    backbone = bundle["backbone"]
    own = "inside, in `backbone/`" if backbone["folder"] else "not inside; it is found by its name"
    rows = [("backbone", f"{md(backbone['name'])} ({own}), SHA-256 `{backbone['sha256']}`")]
    rows += [(f"data: {what}", f"`{value}`") for what, value in bundle["data"].items()]
    rows += [("toolbox", " ".join(filter(None, [bundle["version"], results.get("git")])))]
    return "\n".join(grid(["what", "is"], rows))
