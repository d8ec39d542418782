"""The Classification evaluator: prints upstream's lines, keeps everything a report needs."""

from collections import OrderedDict

import numpy as np

from dassl.utils.errors import UserError

from .build import EVALUATOR_REGISTRY
from .figures import confusion, figures, intervals, per_class


class EvaluatorBase:
    def __init__(self, cfg):
        self.cfg = cfg

    def reset(self):
        raise NotImplementedError

    def process(self, mo, gt):
        raise NotImplementedError

    def evaluate(self):
        raise NotImplementedError


@EVALUATOR_REGISTRY.register()
class Classification(EvaluatorBase):
    """process(mo (B, C) logits, gt (B,) labels) a batch, then evaluate().

    After evaluate(), `report` holds metrics, ci95, ci_unit, per_class, n, classes and confusion (counts, a row of
    each true class). `groups`, set between process and evaluate, are the ids that the intervals resample.
    """

    def __init__(self, cfg, lab2cname=None, **kwargs):
        super().__init__(cfg)
        self.lab2cname = lab2cname
        self.reset()

    def reset(self):
        self._outputs, self._labels, self.groups, self.report = [], [], None, None

    def process(self, mo, gt):
        self._outputs.append(mo.detach().float().cpu())
        self._labels.append(gt.detach().cpu())

    def predictions(self):
        """(labels (n,), predictions (n,), probabilities (n, C)) so far."""
        import torch  # here: tables read METRICS of this package and need no torch

        if not self._outputs:
            raise UserError("nothing was evaluated: the split has no readable image")
        outputs = torch.cat(self._outputs).double()  # double: sure predictions keep the order of their logits
        if not torch.isfinite(outputs).all():
            raise UserError("the model's outputs are infinite or NaN: train with a lower OPTIM.LR or precision fp32")
        probabilities = outputs.softmax(1).numpy()
        return torch.cat(self._labels).numpy(), probabilities.argmax(1), probabilities

    def evaluate(self):
        """OrderedDict accuracy, error_rate, macro_f1, (perclass_accuracy), ...; percent."""
        y_true, y_pred, probabilities = self.predictions()
        classes = probabilities.shape[1]
        lab2cname = self.lab2cname or {c: str(c) for c in range(classes)}
        names = [lab2cname.get(c, str(c)) for c in range(classes)]
        metrics = figures(y_true, probabilities)
        bounds, unit = intervals(y_true, y_pred, classes, self.groups)
        self.report = {
            "n": len(y_true),
            "classes": names,
            "metrics": metrics,
            "ci95": bounds,
            "ci_unit": unit,
            "per_class": per_class(y_true, y_pred, names),
            "confusion": confusion(y_true, y_pred, classes).tolist(),
        }
        results = OrderedDict(accuracy=metrics["accuracy"], error_rate=100 - metrics["accuracy"])
        results["macro_f1"] = metrics["macro_f1"]
        self._print(y_true, y_pred, results)
        if self.cfg.TEST.PER_CLASS_RESULT:
            results["perclass_accuracy"] = self._print_classes(y_true, y_pred, lab2cname)
        if self.cfg.TEST.COMPUTE_CMAT:
            self._save_confusion(y_true, y_pred)
        return results | {k: v for k, v in metrics.items() if k not in results and v is not None}

    def _print(self, y_true, y_pred, results):
        print(
            "=> result\n"
            f"* total: {len(y_true):,}\n"
            f"* correct: {int((y_true == y_pred).sum()):,}\n"
            f"* accuracy: {results['accuracy']:.1f}%\n"
            f"* error: {results['error_rate']:.1f}%\n"
            f"* macro_f1: {results['macro_f1']:.1f}%"
        )

    def _print_classes(self, y_true, y_pred, lab2cname):
        print("=> per-class result")
        accuracies = []
        for label in np.unique(y_true):
            inside = y_true == label
            total, correct = int(inside.sum()), int((y_pred[inside] == label).sum())
            accuracies.append(100 * correct / total)
            print(
                f"* class: {label} ({lab2cname.get(int(label), label)})\ttotal: {total:,}\tcorrect: {correct:,}\t"
                f"acc: {accuracies[-1]:.1f}%"
            )
        mean = float(np.mean(accuracies))
        print(f"* average: {mean:.1f}%")
        return mean

    def _save_confusion(self, y_true, y_pred):
        import torch
        from sklearn.metrics import confusion_matrix

        from dassl.utils.io import atomic_path

        matrix = torch.from_numpy(confusion_matrix(y_true, y_pred, normalize="true"))
        with atomic_path(f"{self.cfg.OUTPUT_DIR}/cmat.pt") as temporary:
            torch.save(matrix, temporary)
        print(f"Confusion matrix is saved to {self.cfg.OUTPUT_DIR}/cmat.pt")
