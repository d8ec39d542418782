"""Evaluator numbers worked by hand."""

import numpy as np
import pytest
import torch

from dassl.config import get_cfg_default
from dassl.evaluation import build_evaluator
from dassl.evaluation.figures import ece, figures, intervals
from dassl.metrics import compute_accuracy


def probabilities(predicted, classes, top=0.8):
    p = np.full((len(predicted), classes), (1 - top) / (classes - 1))
    p[np.arange(len(predicted)), predicted] = top
    return p


def test_figures_by_hand():
    """True 0 0 0 1 1 2, predicted 0 0 1 1 1 0: recall 2/3, 1, 0; precision 2/3, 2/3, 0."""
    y, p = np.array([0, 0, 0, 1, 1, 2]), probabilities([0, 0, 1, 1, 1, 0], 3)
    f = figures(y, p)
    assert f["accuracy"] == pytest.approx(100 * 4 / 6)
    assert f["balanced_accuracy"] == pytest.approx(100 * (2 / 3 + 1 + 0) / 3)
    assert f["macro_f1"] == pytest.approx(100 * (2 / 3 + 4 / 5 + 0) / 3)
    expected = (3 * 3 + 2 * 3 + 1 * 0) / 36  # chance agreement: truth 3 2 1, predicted 3 3 0
    assert f["kappa"] == pytest.approx((4 / 6 - expected) / (1 - expected))
    assert f["ece"] == pytest.approx(100 * abs(0.8 - 4 / 6), abs=1e-4)


def test_macro_f1_is_over_classes_present_and_auroc_undefined_without_all():
    y, p = np.array([0, 0, 1]), probabilities([0, 2, 1], 3)
    f = figures(y, p)
    assert f["macro_f1"] == pytest.approx(100 * (2 / 3 + 1) / 2)
    assert f["auroc"] is None


def test_two_class_auroc_by_hand():
    """Scores of class 1: positives 0.9, 0.4; negatives 0.5, 0.1: 3 of 4 pairs in order."""
    p1 = np.array([0.9, 0.4, 0.5, 0.1])
    assert figures(np.array([1, 1, 0, 0]), np.stack([1 - p1, p1], 1))["auroc"] == pytest.approx(75)


def test_calibration_of_a_sure_and_right_model_is_zero():
    assert ece(np.array([0, 1]), probabilities([0, 1], 3, top=1.0)) == pytest.approx(0, abs=1e-5)


def test_intervals_widen_when_images_of_a_patient_go_together():
    y = np.repeat([0, 1], 50)
    predicted = np.where(np.arange(100) % 25 < 5, 1 - y, y)
    by_image, unit = intervals(y, predicted, 2)
    patients = np.arange(100) // 25 * 2 + (np.arange(100) % 25 < 5)
    by_group, grouped = intervals(y, predicted, 2, patients)
    assert (unit, grouped) == ("image", "group")
    assert by_image["accuracy"][0] < 80 < by_image["accuracy"][1]
    assert by_group["accuracy"][1] - by_group["accuracy"][0] > by_image["accuracy"][1] - by_image["accuracy"][0]


def test_evaluator_prints_upstreams_lines(capsys):
    cfg = get_cfg_default()
    cfg.TEST.PER_CLASS_RESULT = True
    evaluator = build_evaluator(cfg, lab2cname={0: "cat", 1: "dog"})
    evaluator.process(torch.tensor([[2.0, 0.0], [0.0, 2.0], [2.0, 0.0]]), torch.tensor([0, 1, 1]))
    results = evaluator.evaluate()
    assert next(iter(results)) == "accuracy" and results["perclass_accuracy"] == pytest.approx(75)
    printed = capsys.readouterr().out
    assert "=> result\n* total: 3\n* correct: 2\n* accuracy: 66.7%\n* error: 33.3%\n* macro_f1: 66.7%\n" in printed
    assert "* class: 1 (dog)\ttotal: 2\tcorrect: 1\tacc: 50.0%\n* average: 75.0%" in printed


def test_top_k_accuracy():
    output = torch.tensor([[0.1, 0.5, 0.4], [0.6, 0.3, 0.1]])
    top1, top3 = compute_accuracy(output, torch.tensor([2, 0]), topk=(1, 3))
    assert top1.item() == 50 and top3.item() == 100
