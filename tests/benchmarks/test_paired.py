"""Paired differences: pairs by seed and image, intervals over both, the baseline found by its settings."""

import numpy as np
import pytest

from cilmp.benchmarks import paired
from cilmp.benchmarks.paired import PLACE, interval, literal, rows_of
from dassl.utils.errors import UserError


def run(folder, group, seed, right, **settings):
    """A finished run as `records` gives it; `right` tells which of its images it predicts."""
    folder = folder / group / str(seed)
    folder.mkdir(parents=True)
    paths = np.array([f"{i}.png" for i in range(len(right))])[::-1]  # order plays no part
    labels, predictions = np.ones(len(right), int), np.array(right)[::-1]
    p = np.full((len(right), 2), 0.5)
    np.savez(folder / "predictions.npz", paths=paths, labels=labels, predictions=predictions, probabilities=p)
    settings = {"SEED": seed, "A.K": "real", **settings}
    return {"folder": folder, "group": group, "seed": seed, "split": "test", "spec": {"settings": settings}}


def test_differences_are_paired_by_seed_and_image(tmp_path):
    easy = [1, 1, 1, 0]
    runs = [run(tmp_path, "a", s, easy if s else [1, 0, 0, 0]) for s in range(3)]
    runs += [run(tmp_path, "b", s, [1] * 4 if s else easy, **{"A.K": "noise"}) for s in (0, 2)]
    base, other = rows_of(runs, {"A.K": "real"}, 500)
    assert base[:2] == ["", 3] and base[4:] == [0, 0, 0]
    assert other[:2] == ["K noise", 2] and other[2] == 87.5 and other[4] == 37.5  # seed 0: +50, seed 2: +25
    assert other[5] < 37.5 < other[6]
    with pytest.raises(UserError, match="0 rows have the settings"):
        rows_of(runs, {"A.K": "mean"}, 500)


def test_the_interval_knows_both_sources_of_chance():
    rng = np.random.default_rng(1)
    by_seed, by_image = rng.normal(size=(40, 1)), rng.normal(size=(1, 90))
    for differences, spread in ((by_seed + 0 * by_image, 40**-0.5), (by_image + 0 * by_seed, 90**-0.5),
                                (by_seed + by_image, (1 / 40 + 1 / 90) ** 0.5)):  # fmt: skip
        low, high = interval(differences, 4000)
        assert (high - low) / (2 * 1.96) == pytest.approx(spread, rel=0.25)
        assert (low + high) / 2 == pytest.approx(differences.mean(), abs=0.03)


def test_settings_are_read_as_configurations_are():
    assert literal("real") == "real" and literal("()") == [] and literal("4") == 4


def test_seeds_of_other_images_and_broken_predictions_are_one_line(tmp_path):
    runs = [run(tmp_path, "a", s, [1, 0, 1, 0][: 4 - s]) for s in range(2)]
    with pytest.raises(UserError, match="its seeds were tested on different images"):
        rows_of(runs, {"A.K": "real"}, 10)
    (runs[0]["folder"] / "predictions.npz").write_bytes(b"no zip")
    with pytest.raises(UserError, match=r"predictions\.npz can't be read"):
        rows_of(runs, {"A.K": "real"}, 10)


def test_a_place_without_a_baseline_does_not_hide_the_others(tmp_path, monkeypatch, capsys):
    runs = [run(tmp_path, group, s, [1, 0], **{"A.K": kind}) for group, kind in (("a", "real"), ("b", "mean"))
            for s in range(2)]  # fmt: skip
    for r, dataset in zip(runs, "xxyy"):
        r["spec"] |= dict.fromkeys(PLACE, "") | {"method": "CILMP", "dataset": dataset}
    monkeypatch.setattr(paired, "records", lambda output: runs[::-1])
    assert paired.main(["nowhere", "--baseline", "A.K=real", "--draws", "10"]) == 0
    assert "left out: 0 rows" in (said := capsys.readouterr().out) and "| baseline | 2 | 50.0" in said
    assert paired.main(["nowhere", "--baseline", "A.K=noise", "--draws", "10"]) == 1
