"""cilmp calibrate RUN|OUTPUT: temperature, prediction sets with a coverage promise, a flag for unlike images."""

from functools import cached_property
from pathlib import Path

import numpy as np

from cilmp.experiments.calibration import FILE, free_of_choice
from cilmp.experiments.collect import records
from cilmp.experiments.commands import parser_of
from cilmp.experiments.predictions import names_of, of_file, read
from dassl.evaluation.figures import WHOLE_VAL
from dassl.utils.errors import ConfigError, MissingFile, UserError
from dassl.utils.io import read_json_object, sha256_file, write_json

from . import bundle, calibration, conformal, unlike
from .predict import add_places

DESCRIPTION = """How sure a finished run's answers may be, from the whole val part of its data.

    cilmp calibrate output/few_shot/BUSI/CILMP/.../seed1/train_all --level 0.9
    cilmp calibrate output/ --no-unlike                    # every run below that trained
    cilmp calibrate RUN --calibrate ward.csv               # on images of your own: path,label[,patient]

Writes calibration.json into the run's folder, which `cilmp predict` and `cilmp report` read.
"""


def parser():
    p = parser_of("calibrate", DESCRIPTION)
    p.add_argument("run", metavar="RUN|OUTPUT", help="folder of a finished run, or one with many below it")
    p.add_argument("--level", type=float, default=0.9, metavar="SHARE",
                   help="share of new patients whose set holds the true class")
    p.add_argument("--method", default="lac", choices=conformal.METHODS, help="of the sets; class: level in each class")
    p.add_argument("--calibrate", default="", metavar="CSV", help="labelled images of your own in place of val")
    p.add_argument("--seed", type=int, default=0, metavar="N", help="of the choice of one image a patient")
    p.add_argument("--no-unlike", action="store_true", help="no flag for unlike images: needs no images, no model")
    p.add_argument("--root", default="", metavar="DIR", help="where the data set lies now (default: where it was)")
    add_places(p)
    return p


def main(argv=None):
    args = parser().parse_args(argv)
    if not 0.5 <= args.level < 1:
        raise ConfigError(f"--level {args.level:g}: give a share from 0.5 to below 1, e.g. 0.9")
    conformal.crepes()
    runs = runs_below(args.run)
    if args.calibrate and len(runs) > 1:
        raise UserError(f"--calibrate goes with one run, {args.run} holds {len(runs)}")
    failed = 0
    for folder in runs:
        try:
            print(f"{folder}: {said(calibrated(folder, args))}", flush=True)
        except UserError as error:
            if len(runs) == 1:
                raise
            failed += 1
            print(f"{folder}: not calibrated - {error}", flush=True)
    return 1 if failed else 0


def runs_below(place):
    """[folder] of a run that trained, or of all below.

    Raises:
        UserError: none, a bundle, or a test of another run's checkpoint.
    """
    place = Path(place).expanduser()
    if bundle.is_bundle(place):
        raise UserError(f"{place} is a bundle, of which no file may change: calibrate the run it was made of, then "
                        f"export that again")  # fmt: skip
    found = [r for r in records(place) if not bundle.is_bundle(r["folder"])]
    if not found:
        raise MissingFile(f"no finished run in {place} (it would hold a results.json)")
    trained = [r["folder"] for r in found if not r["spec"]["source"]]
    if not trained:
        raise UserError(f"{place} tests what another run trained: calibrate that one, its val images tell")
    return trained


def calibrated(folder, args):
    """The content of calibration.json of a run, written."""
    run = Run(folder, args)
    p, whole = run.images
    content = {"form": calibration.FORM, "on": args.calibrate or "whole val", "seed": args.seed,
               "classes": run.classes}  # fmt: skip
    content |= calibration.fitted(p, run.classes, args.method, args.level, args.seed, whole)
    if run.results.get("transductive"):
        content |= {"sets": None, "why_no_sets": f"{run.results['method']} answers all images at once, so those of val "
                                                 f"and new ones are not exchangeable"}  # fmt: skip
    content |= run.flag(p)
    content["test"] = calibration.tested(run.tests, content["sets"]) if content["sets"] else None
    content["hashes"] = {name: sha256_file(folder / name) for name in ("results.json", WHOLE_VAL)
                         if (folder / name).is_file()}  # fmt: skip
    write_json(content, folder / FILE)
    return content


class Run:
    """A finished run as far as its calibration needs it; model and data only when asked for."""

    def __init__(self, folder, args):
        self.folder, self.args = Path(folder), args
        self.results = read_json_object(self.folder / "results.json")
        if self.results.get("schema") != 2:
            raise UserError(f"{self.folder} is a run of another version of the toolbox: train it again")
        self.classes = self.results["classes"]

    @cached_property
    def model(self):
        from .model import load

        return load(self.folder, self.args.device, self.args.weights, self.args.plugin)

    @cached_property
    def dataset(self):
        """The run's data set, read again.

        Raises:
            UserError: it is not here, or its training images are others by now.
        """
        import yaml

        from cilmp import datasets  # noqa: F401 - registers the readers
        from dassl.data.datasets import build_dataset
        from dassl.data.hashing import split_hashes

        cfg = self.model.trainer.cfg.clone()
        cfg.defrost()
        config = yaml.safe_load((self.folder / "config.yaml").read_text(encoding="utf-8"))
        cfg.DATASET.ROOT = self.args.root or config["DATASET"]["ROOT"]
        dataset = build_dataset(cfg)
        if split_hashes(dataset)["train_sha256"] != self.results["train_sha256"]:
            raise UserError(f"{self.results['dataset']} has other training images now than the run saw: give the "
                            f"folder it was trained on with --root")  # fmt: skip
        return dataset

    @cached_property
    def tests(self):
        return read({"folder": self.folder, "split": "test"})

    @property
    def images(self):
        """(Predictions of the calibration images, of what they are a part of or None)."""
        if self.args.calibrate:
            return self._own_images(), None
        path = self.folder / WHOLE_VAL
        if not path.is_file():
            self._keep_whole_val()
        return free_of_choice(path), of_file(path)[0]

    def _keep_whole_val(self):
        """What a run before TEST.WHOLE_VAL would have kept."""
        from dassl.engine import whole_val
        from dassl.engine.results import save_predictions

        items = whole_val.whole_val(self.model.trainer.cfg, self.dataset)
        chose = {item.impath for item in self._choosing()}
        paths, labels = [item.impath for item in items], np.array([item.label for item in items])
        p = self.model.predict_proba(paths)
        used = np.array([path in chose for path in paths])
        save_predictions(self.folder / WHOLE_VAL, self.classes, paths, labels, p.argmax(1), p,
                         whole_val.groups_of(self.dataset, paths), used=used)  # fmt: skip

    def _own_images(self):
        """Predictions of a table's images.

        Raises:
            UserError: other classes than the run's, or images the run was trained, chosen or tested on.
        """
        from cilmp.datasets.prepare.own import table
        from cilmp.experiments.predictions import Predictions

        raw = table(self.args.calibrate)
        if unknown := sorted({im.classname for im in raw.images} - set(self.classes)):
            raise UserError(f"{self.args.calibrate} has the class {unknown[0]!r}, the run knows "
                            f"{', '.join(self.classes[:8])}")  # fmt: skip
        paths = [str(im.source) for im in raw.images]
        self._refuse_known(paths)
        groups = np.array([f"id {im.group}" if im.group else f"one {path}" for im, path in zip(raw.images, paths)])
        labels, p = np.array([self.classes.index(im.classname) for im in raw.images]), self.model.predict_proba(paths)
        return Predictions(np.array(paths), labels, p.argmax(1), p, groups)

    def _refuse_known(self, paths):
        """Refuse images that the model was trained, chosen or is judged on, by their content; said where the data are
        not here."""
        from dassl.utils.images import image_hash

        try:
            known, test = [*self.dataset.train_x, *self._choosing()], self.dataset.test
        except UserError as error:
            print(f"warning: whether the model was trained on some of these images can't be checked: {error}")
            return
        known, test = ({image_hash(item.impath) for item in items} for items in (known, test))
        hashes = {path: image_hash(path) for path in paths}
        if seen := [path for path in paths if hashes[path] in known]:
            raise UserError(f"{self.args.calibrate}: the model was trained or chosen on {len(seen)} of these images, "
                            f"as {seen[0]}; on them it is surer than on new ones: take them out")  # fmt: skip
        if seen := [path for path in paths if hashes[path] in test]:
            raise UserError(f"{self.args.calibrate}: {len(seen)} of these images, as {seen[0]}, are the run's test "
                            f"images; what is said of test would be of what was fitted: take them out")  # fmt: skip

    def _choosing(self):
        from dassl.engine.whole_val import choosing

        return choosing(self.results["spec"]["settings"]["TEST.FINAL_MODEL"], self.model.trainer, self.dataset)

    def flag(self, p):
        """{unlike, why_no_flag}; what is kept of the training images' features is written beside."""
        if self.args.no_unlike:
            return {"unlike": None, "why_no_flag": "not asked for (--no-unlike)"}
        try:
            one = p.of(conformal.one_each(p.units, self.args.seed))
            conformal.check_enough(len(one.names), unlike.LEVEL)  # before images are read
            items = self.dataset.train_x
            seen = self.model.features([item.impath for item in items])
            fitted = unlike.fitted(seen, [item.label for item in items])
            far = unlike.distances(*fitted, self.model.features(self._files(one)))
            threshold = conformal.threshold(far, unlike.LEVEL)
        except UserError as error:
            return {"unlike": None, "why_no_flag": str(error)}
        calibration.keep_training(self.folder, *fitted)
        return {"unlike": {"threshold": threshold, "level": unlike.LEVEL, "n": len(one.names)}, "why_no_flag": ""}

    def _files(self, p):
        """Where calibration images lie now; whole val's have names below their common folder."""
        if self.args.calibrate:
            return list(p.names)
        from dassl.engine import whole_val

        paths = tuple(item.impath for item in whole_val.whole_val(self.model.trainer.cfg, self.dataset))
        path_of = dict(zip(names_of(paths, len(paths)), paths))
        if missing := [name for name in p.names if name not in path_of]:
            raise UserError(f"{self.results['dataset']} has another val part now than the run saw ({missing[0]})")
        return [path_of[name] for name in p.names]


def said(content):
    """What was found, in a line."""
    t, sets, test = content["temperature"], content["sets"], content["test"]
    parts = [f"temperature {t['value']:.2f} ({t['images']} images)"]
    if sets is None:
        parts.append(f"no sets: {content['why_no_sets']}")
    else:
        low, high = test["coverage_ci95"]
        promise = 100 * (sets["level"] - sets["shift"])
        parts.append(f"{sets['method']} sets that hold the class of {promise:.3g} % of new {sets['unit']}s "
                     f"({sets['n']} images); on test {100 * test['coverage']:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"
                     f", {test['size']:.2f} of {len(content['classes'])} classes in a set")  # fmt: skip
    flag = content["unlike"]
    parts.append(f"flags images further than {flag['threshold']:.4g} from the training images" if flag
                 else f"no flag: {content['why_no_flag']}")  # fmt: skip
    return "; ".join(parts)
