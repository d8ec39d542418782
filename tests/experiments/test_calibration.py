"""Temperature scaling: fitted on val images that chose nothing, of the run that trained, and never on test."""

import numpy as np
import pytest
from scipy.special import softmax

from cilmp.experiments import calibration
from dassl.evaluation.figures import WHOLE_VAL


def drawn(n=4000, sharpness=1.0, seed=0, classes=4):
    """(labels, probabilities): labels are drawn from softmax(z), probabilities are softmax(sharpness z)."""
    rng = np.random.default_rng(seed)
    z = rng.normal(0, 1.5, (n, classes))
    labels = (softmax(z, axis=1).cumsum(1) > rng.random((n, 1))).argmax(1)
    return labels, softmax(sharpness * z, axis=1).astype(np.float32)


def write(folder, name, labels, probabilities, groups=(), **more):
    folder.mkdir(parents=True, exist_ok=True)
    paths = np.array([f"data/{i:05d}.png" for i in range(len(labels))])
    np.savez(folder / name, paths=paths, labels=labels, predictions=probabilities.argmax(1),
             probabilities=probabilities, groups=np.array(groups, dtype=str), **more)  # fmt: skip


def a_run(folder, part="train_base", source=None, seed=1):
    """A record of results as far as calibration reads it, and its predictions."""
    labels, p = drawn(500, 2.0, seed=7)
    write(folder, "predictions.npz", labels, p)
    return {"folder": folder, "split": "test", "group": "g", "key": "g" if source is None else "h", "seed": seed,
            "spec": {"part": part, "source": source}}  # fmt: skip


ROWS = [{"group": "g", "label": "CoOp", "shots": 4}]


@pytest.mark.parametrize("sharpness", [0.5, 1.0, 3.0])
def test_the_temperature_that_made_the_labels_is_found(sharpness):
    labels, p = drawn(sharpness=sharpness)
    t = calibration.temperature(labels, p)
    assert t == pytest.approx(sharpness, rel=0.08)
    assert calibration.ece(labels, calibration.scaled(p, t)) < 2
    for other in (0.9 * t, 1.1 * t):
        assert calibration.nll(labels, calibration.scaled(p, other)) > calibration.nll(labels, calibration.scaled(p, t))


def test_a_val_part_without_a_mistake_has_a_bounded_temperature():
    labels = np.array([0, 1, 2])
    assert calibration.LIMITS[0] <= calibration.temperature(labels, np.eye(3)) < 0.3
    assert calibration.temperature(labels, np.eye(3)[[1, 2, 0]]) == pytest.approx(calibration.LIMITS[1], rel=0.01)
    assert np.isfinite(calibration.scaled(np.eye(3), 0.02)).all()


def test_scaling_keeps_the_order_and_1_changes_nothing():
    _, p = drawn(50)
    assert calibration.scaled(p, 1.0) == pytest.approx(p, abs=1e-6)
    assert (calibration.scaled(p, 7.0).argsort(1) == p.astype(float).argsort(1)).all()


def test_patients_of_images_that_chose_the_model_are_left_out(tmp_path):
    labels, p = drawn(6)
    write(tmp_path, WHOLE_VAL, labels, p, list("aabbcc"), used=np.array([True, *[False] * 5]))
    assert list(calibration.free_of_choice(tmp_path / WHOLE_VAL).groups) == list("bbcc")
    write(tmp_path, WHOLE_VAL, labels, p, used=np.array([True, *[False] * 5]))
    assert len(calibration.free_of_choice(tmp_path / WHOLE_VAL).names) == 5


def test_before_and_after_of_a_run_and_of_what_it_is_tested_on_elsewhere(tmp_path):
    train = a_run(tmp_path / "train")
    test = a_run(tmp_path / "new", "test_new", {"key": "g"})
    labels, p = drawn(400, 2.0, seed=3)
    write(tmp_path / "train", WHOLE_VAL, labels, p, used=np.zeros(400, dtype=bool))
    new, base = calibration.of_rows([train, test], ROWS)
    assert base["temperature"] == new["temperature"] == pytest.approx(calibration.temperature(labels, p))
    assert base["scaled"]["nll"] < base["nll"] and base["scaled"]["ece"] < base["ece"]
    assert (base["borrowed"], new["borrowed"]) == (False, True)
    text = calibration.markdown([base, new])
    assert f"{base['nll']:.3f} → {base['scaled']['nll']:.3f}" in text and "that of the training run" in text


def test_test_images_do_not_choose_the_temperature(tmp_path):
    train = a_run(tmp_path)
    write(tmp_path, WHOLE_VAL, *drawn(100, 2.0), used=np.zeros(100, dtype=bool))
    (first,) = calibration.of_rows([train], ROWS)
    write(tmp_path, "predictions.npz", *drawn(300, 9.0, seed=5))
    (second,) = calibration.of_rows([train], ROWS)
    assert first["temperature"] == second["temperature"] and first["nll"] != second["nll"]


@pytest.mark.parametrize("how, line", [("none", f"no {WHOLE_VAL}"), ("used", "every val image chose the model"),
                                       ("broken", f"{WHOLE_VAL} can't be read")])  # fmt: skip
def test_what_can_not_be_scaled_is_said(tmp_path, how, line):
    train = a_run(tmp_path)
    if how == "used":
        write(tmp_path, WHOLE_VAL, *drawn(9), used=np.ones(9, dtype=bool))
    if how == "broken":
        (tmp_path / WHOLE_VAL).write_bytes(b"PK\x03\x04 nothing")
    (row,) = calibration.of_rows([train], ROWS)
    assert row["scaled"] is None and row["temperature"] is None and line in row["why"]
    assert f"Not scaled, {row['why']}: CoOp (train_base)." in calibration.markdown([row])


def test_a_test_whose_training_is_not_here_is_said(tmp_path):
    (row,) = calibration.of_rows([a_run(tmp_path, "test_x", {"key": "elsewhere"})], ROWS)
    assert row["scaled"] is None and row["why"] == "its training run is not here"
