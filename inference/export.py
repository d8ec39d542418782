"""cilmp export RUN DIR: a finished run as one folder to hand on."""

import shutil
from pathlib import Path

from cilmp.experiments import kept as keeping
from cilmp.experiments.commands import parser_of
from dassl.utils.errors import UserError
from dassl.utils.io import atomic_folder, free_folder, write_json, write_text
from dassl.utils.version import number

from . import bundle
from .predict import add_places

DESCRIPTION = """A finished run as one folder to hand on: learned tensors, class names and wording, LLM rows,
preprocessing, calibration, configuration, hashes, a model card. cilmp.load and cilmp predict read it like a run.

    cilmp export output/few_shot/BUSI/CILMP/.../seed1/train_all my_bundle --with-backbone
    cilmp export output/few_shot/BUSI/CILMP/.../seed1/train_all my_bundle --push me/busi-cilmp
"""
COPIED = (keeping.ROWS, keeping.SENTENCES)
CALIBRATION, TRAINING = "calibration.json", "calibration.safetensors"  # of `cilmp calibrate`


def parser():
    p = parser_of("export", DESCRIPTION)
    p.add_argument("run", metavar="RUN", help="folder of a finished run")
    p.add_argument("folder", metavar="DIR", help="where the bundle goes: a new or empty folder")
    p.add_argument("--with-backbone", action="store_true", help="the backbone's weights too, so that it runs offline")
    p.add_argument("--onnx", action="store_true", help="model.onnx too: pixels to probabilities, for 1 to 64 images")
    p.add_argument("--push", default="", metavar="USER/NAME", help="upload it to the Hugging Face hub as well")
    p.add_argument("--public", action="store_true", help="of --push: a repository that everybody sees")
    add_places(p, device=False)
    return p


def main(argv=None):
    args = parser().parse_args(argv)
    if args.push:
        bundle.check_address(args.push)
    if args.public and not args.push:
        raise UserError("--public is of --push USER/NAME")
    export(args.run, args.folder, args.with_backbone, args.weights, args.plugin, args.onnx)
    size = sum(p.stat().st_size for p in Path(args.folder).rglob("*") if p.is_file())
    print(f"{size / 1e6:.1f} MB. Written: {args.folder}")
    if args.push:
        print(f"Pushed: {bundle.push(args.folder, args.push, args.public)}")
    return 0


def export(run, folder, with_backbone=False, weights="", plugin=(), onnx=False):
    """Write the bundle of a finished run into a new folder, whole or not at all.

    The run is loaded first, so that what is written is known to work.

    Raises:
        UserError: the run can't be used; the folder holds something.
    """
    from .model import load

    folder = free_folder(folder)  # before the run is loaded
    model = load(run, "cpu", weights, plugin)
    with atomic_folder(folder) as place:
        fill(place, model, with_backbone, weights, onnx)
    return folder


def fill(place, model, with_backbone, weights="", onnx=False):
    """Write all files of a loaded run's bundle into an empty folder."""
    from .card import card

    results, kept = _without_places(model.results), _without_places(model.kept)
    for name in COPIED:
        if (model.folder / name).is_file():
            shutil.copy(model.folder / name, place / name)
    if model.calibration:
        content = model.calibration | {"why_no_flag": ""}  # words that may name a folder
        write_json(_without_places(content), place / CALIBRATION)
        if model.calibration["unlike"]:
            shutil.copy(model.folder / TRAINING, place / TRAINING)
    for name in model.trainer.get_model_names():
        (place / name).mkdir()
        shutil.copy(model.learned_in / name / "learner.safetensors", place / name / "learner.safetensors")
    kept = {k: v for k, v in kept.items() if not k.startswith("source")} | {"trained_on": model.trained_on}
    write_json(results, place / "results.json")
    write_json(kept, place / keeping.FILE)
    if onnx:
        from .onnx import NAME
        from .onnx import export as export_onnx

        export_onnx(model, place / NAME)
    facts = _facts(model, with_backbone)
    if facts["backbone"]["folder"]:
        from cilmp.backbones.hand_on import hand_on

        hand_on(facts["backbone"]["name"], weights or model.results["spec"]["weights"] or None, place / bundle.BACKBONE)
    calibrated_on = _without_places((model.calibration or {}).get("on", ""))
    write_text(card(results, kept, facts, calibrated_on), place / bundle.CARD)
    bundle.seal(place, facts)


def _facts(model, with_backbone):
    reads, spec = dict(model.results.get("reads", {})), model.spec
    inside = bundle.BACKBONE if with_backbone else ""
    return {
        "version": number(),
        "method": spec["method"],
        "code": model.kept.get("code"),
        "backbone": {"name": spec["backbone"], "sha256": reads.pop("weights", ""), "folder": inside},
        "data": reads | {k: model.results[k] for k in ("split_sha256", "train_sha256") if k in model.results},
    }


def _is_there(path):
    try:
        return Path(path).exists()
    except (OSError, ValueError):  # too long, or no path at all
        return False


def _without_places(value):
    """The same without folders of this machine, which may hold names: of paths the last part stays. Names of models
    have strokes too, so a relative path is one that leads somewhere."""
    if isinstance(value, dict):
        return {key: _without_places(v) for key, v in value.items()}
    if isinstance(value, list):
        return [_without_places(v) for v in value]
    if isinstance(value, str) and (value.startswith(("/", "~", "./", "../")) or ("/" in value and _is_there(value))):
        return Path(value).name
    return value
