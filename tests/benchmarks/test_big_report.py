"""Made-up runs are complete: a table, its statistics and its calibration read them."""

from cilmp.benchmarks.big_report import METHODS, SEEDS, make
from cilmp.experiments import report, tables
from cilmp.experiments.collect import records
from cilmp.protocols import PROTOCOLS


def test_made_up_runs_are_complete(tmp_path):
    n = METHODS * len(SEEDS) + 7  # all methods at one number of shots, and seven runs of the next
    assert make(tmp_path, n, images=24) == n == make(tmp_path, n, images=24)
    ((key, found),) = report.groups_of(records(tmp_path)).items()
    table = tables.build(PROTOCOLS[key[0]], found, "made up")
    assert len(found) == n and sorted(row["shots"] for row in table["data"]) == [1] * METHODS + [2] * 2
    assert table["pairs"] and not table["left_out"] and {p["unit"] for p in table["pairs"]} == {"patient"}
    assert set(found[0]["metrics"]) >= {"accuracy", "macro_f1", "balanced_accuracy", "auroc"}
