"""What makes a run's answers sure: temperature, prediction sets, a flag for unlike images; fitted, kept, applied.

calibration.json of a run's folder (form 1):
    classes       names in label order
    temperature   value, images, patients          probabilities p^(1/value), normalised
    sets          method, level, thresholds (one, or one a class), n, unit, shift; null with `why_no_sets`
    unlike        threshold, level, n; null with `why_no_flag`; means and whitening in calibration.safetensors
    test          n, units, unit, coverage, coverage_ci95, size, size_ci95, per_class, of the run's own test images
    on, seed, hashes    what it was fitted on; the choice of one image a patient; SHA-256 of the files it came from
"""

from pathlib import Path

import numpy as np

from cilmp.experiments.calibration import FILE, scaled, temperature
from dassl.utils.errors import UserError
from dassl.utils.io import misfit, read_json_object

from . import conformal, unlike

FORM = 1
FACTS = {"temperature": {"value": (int, float)}, "sets": {"method": str, "thresholds": list},
         "unlike": {"threshold": (int, float)}}  # fmt: skip
FEATURES = "calibration.safetensors"
RESAMPLES = 2000


def fitted(p, classes, method, level, seed, whole=None):
    """{temperature, sets, why_no_sets} of calibration images' `Predictions`.

    Args:
        whole: Predictions that these are a part of, drawn like test. Where a balanced few-shot val chose the model and
            is left out, class shares shift; the promise loses at most their total variation distance.
    """
    labels = p.labels.astype(int)
    found = {"temperature": {"value": temperature(labels, p.probabilities), "images": len(labels),
                             "patients": len(np.unique(p.units))}}  # fmt: skip
    one = p.of(conformal.one_each(p.units, seed))
    labels = one.labels.astype(int)
    shift = 0.0 if whole is None else float(np.abs(shares(p) - shares(whole)).sum() / 2)
    try:
        q = conformal.thresholds(method, level, labels, one.probabilities, classes)
    except conformal.TooFew as error:
        return found | {"sets": None, "why_no_sets": str(error)}
    sets = {"method": method, "level": level, "thresholds": q, "n": len(labels), "unit": unit_of(p), "shift": shift}
    return found | {"sets": sets, "why_no_sets": ""}


def shares(p):
    """(C,) of the classes, a patient counting once."""
    _, number = np.unique(p.units, return_inverse=True)
    weights = 1 / np.bincount(number)[number]
    return np.bincount(p.labels.astype(int), weights, p.probabilities.shape[1]) / weights.sum()


def unit_of(p):
    return "patient" if len(np.unique(p.units)) < len(p.names) else "image"


def tested(p, sets, seed=0):
    """{n, units, unit, coverage, size ...} of test images' `Predictions`: means over patients, which is what the
    promise is about, with percentile intervals of a bootstrap over patients."""
    labels = p.labels.astype(int)
    inside = conformal.sets(sets["method"], sets["thresholds"], p.probabilities)
    hit, size = inside[np.arange(len(labels)), labels], inside.sum(1)
    units, number = np.unique(p.units, return_inverse=True)
    count = np.bincount(number)
    values = np.stack([np.bincount(number, v) / count for v in (hit.astype(float), size.astype(float))])  # (2, G)
    draws = np.random.default_rng(seed).multinomial(len(units), np.full(len(units), 1 / len(units)), RESAMPLES)
    low, high = np.percentile(draws @ values.T / len(units), [2.5, 97.5], axis=0)
    means = values.mean(1)
    per_class = [float(hit[labels == c].mean()) if (labels == c).any() else None for c in range(inside.shape[1])]
    found = {"n": len(labels), "units": len(units), "unit": unit_of(p), "per_class": per_class}
    for i, name in enumerate(("coverage", "size")):
        found |= {name: float(means[i]), f"{name}_ci95": [float(low[i]), float(high[i])]}
    return found


def read(folder, classes):
    """Content of a run's calibration.json.

    Raises:
        UserError: of another version or of other classes than the run's, or not whole.
    """
    path = Path(folder, FILE)
    content = read_json_object(path)
    again = f"make it again with cilmp calibrate {folder}"
    if content.get("form") != FORM:
        raise UserError(f"{path} is of another version of the toolbox (form {content.get('form')}, here "
                        f"{FORM}): {again}")  # fmt: skip
    if content.get("classes") != list(classes):
        raise UserError(f"{path} is of other classes than the run's: {again}")
    nothing = {key: type(None) for key in ("sets", "unlike") if content.get(key, ...) is None}
    if words := misfit(content, FACTS | nothing):
        raise UserError(f"{path} is no calibration ({words}): {again}")
    return content


def judged(folder, calibration, probabilities, features):
    """{column: N values} of new images: calibrated probability, prediction set (names, the likeliest first), whether
    unlike the training images.

    Args:
        probabilities: (N, C), the model's own. features: (N, d) unit image features, or None.
    """
    columns = {"calibrated": scaled(probabilities, calibration["temperature"]["value"]).max(1).tolist()}
    if sets := calibration["sets"]:
        inside = conformal.sets(sets["method"], sets["thresholds"], probabilities)
        order = np.argsort(-probabilities, axis=1, kind="stable")
        names = calibration["classes"]
        columns["set"] = [[names[c] for c in row if member[c]] for row, member in zip(order, inside)]
    if (flag := calibration["unlike"]) and features is not None:
        columns["unlike"] = (unlike.distances(*kept_training(folder), features) > flag["threshold"]).tolist()
    return columns


def keep_training(folder, means, whitening):
    from safetensors.numpy import save_file

    from dassl.utils.io import atomic_path

    with atomic_path(Path(folder, FEATURES)) as temporary:
        save_file({"means": means, "whitening": whitening}, str(temporary))


def kept_training(folder):
    """(means, whitening) of `unlike.fitted`.

    Raises:
        UserError: missing or damaged.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    path = Path(folder, FEATURES)
    try:
        found = load_file(path)
        return found["means"], found["whitening"]
    except (SafetensorError, OSError, KeyError) as error:
        raise UserError(f"{path} can't be read ({error}): make it again with cilmp calibrate {folder}") from None
