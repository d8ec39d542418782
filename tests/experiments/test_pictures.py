"""Pictures: which are drawn of what, that nothing written in them is cut or covered, the same bytes each time."""

import json
import re
import shutil

import numpy as np
import pytest
from matplotlib.text import Text

from cilmp.experiments import calibration, over_sets, pictures, report, tables
from cilmp.experiments.collect import records
from cilmp.experiments.pictures import frame, of_runs, of_table
from cilmp.protocols import PROTOCOLS

from . import made_up


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Made-up runs of few_shot, base2new and full."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        made_up.make(folder, patch, 96)
    made_up.with_curves(folder)
    return folder


@pytest.fixture
def tables_of(runs, tmp_path):
    """tables_of(protocol, how=None) -> (table, its records) of a copy of the runs, changed by how(results)."""

    def found(protocol, how=None):
        place = tmp_path / f"out {protocol}"
        shutil.copytree(runs / protocol, place / protocol)
        if how:
            made_up.change(place, how)
        ((_, own),) = report.groups_of(records(place)).items()
        return tables.build(PROTOCOLS[protocol], own, f"{protocol} on set01"), own

    return found


@pytest.fixture(scope="module")
def figures(runs, tmp_path_factory):
    """{file name: figure} of all pictures, those of base2new of hostile names; and the folder they are saved in."""
    kept, save, folder = {}, frame.save, tmp_path_factory.mktemp("pictures")

    def saving(made, stem, *more):
        save(made, stem, *more)
        kept[stem.name] = made

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(frame, "save", saving)
        for name in ("base2new", "full", "few_shot"):
            if name == "few_shot":  # what lies behind it is drawn as for the others
                patch.setattr(pictures, "BEHIND", {})
            shutil.copytree(runs / name, folder / "out" / name)
            if name == "base2new":
                made_up.change(folder / "out" / name, made_up.hostile)
            ((_, own),) = report.groups_of(records(folder / "out" / name)).items()
            table = tables.build(PROTOCOLS[name], own, f"{name} on set01")
            pictures.of_one_table(PROTOCOLS[name], table, own, folder / "drawn", name)
    return kept, folder / "drawn"


def test_what_is_drawn_of_each_protocol(figures):
    found, folder = figures
    behind = {f"full-{b}" for b in ("per-class", "confusion", "roc", "reliability", "training")}
    of_parts = {f"base2new-{b}-{part}" for b in ("per-class", "confusion", "roc", "reliability")
                for part in ("train_base", "test_new")}  # fmt: skip
    of_all = {f"{name}-{n}" for name in ("few_shot", "base2new", "full") for n in ("differences", "cost")}
    assert set(found) == {"few_shot", "base2new", "base2new-base-new", "base2new-training", *of_all, *behind, *of_parts}
    assert {p.name for p in folder.iterdir()} == {f"{name}.{form}" for name in found for form in ("svg", "png")}


def overlap(a, b):
    return min(a.x1, b.x1) - max(a.x0, b.x0) > 1 and min(a.y1, b.y1) - max(a.y0, b.y0) > 1


def cut(made):
    """Texts of a figure that do not lie within it, but for labels of ticks beyond an axis, which are not drawn."""
    width, height = made.canvas.get_width_height()
    beyond = [label for axes in made.axes for axis in (axes.xaxis, axes.yaxis)
              for low, high in [sorted(axis.get_view_interval())]
              for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks()) if not low <= tick.get_loc() <= high
              for label in (tick.label1, tick.label2)]  # fmt: skip
    boxes = [(t.get_text(), t.get_window_extent()) for t in made.findobj(Text)
             if t.get_visible() and t.get_text().strip() and t not in beyond]  # fmt: skip
    return [text for text, b in boxes if b.x0 < -1 or b.y0 < -1 or b.x1 > width + 1 or b.y1 > height + 1]


def covered(made):
    """Whether the title or a legend lies over axes, or over each other."""
    title = made._suptitle.get_window_extent()
    legends = [a.get_legend().get_window_extent() for a in made.axes if a.get_legend()]
    below = [legend.get_window_extent() for legend in made.legends]
    axes = [box for a in made.axes for box in (a.get_window_extent(), a.title.get_window_extent())]
    return any(overlap(title, box) for box in (*axes, *legends, *below)) or \
        any(overlap(a, b) for a in (*legends, *below) for b in axes)  # fmt: skip


def test_no_word_is_cut_or_covered(figures):
    for name, made in figures[0].items():
        made.canvas.draw()
        assert not cut(made) and not covered(made), name
        assert len([t for t in made.findobj(Text) if t.get_text().strip()]) > 5


def test_a_cut_or_covered_word_would_be_found(tables_of):
    """The checks above can fail."""
    with frame.style():
        made = of_table.forest(PROTOCOLS["full"], tables_of("full")[0])
        made.draw_without_rendering()
        assert not cut(made)
        made.set_layout_engine("none")
        made.suptitle("wide " * 60, y=0.5)
        assert len(cut(made)) == 1 and covered(made)


def test_equal_pictures_are_equal_files(figures, tables_of, tmp_path):
    table, own = tables_of("full")
    pictures.of_one_table(PROTOCOLS["full"], table, own, tmp_path / "again", "full")
    again = sorted((tmp_path / "again").iterdir())
    assert len(again) == 14 and all(file.read_bytes() == (figures[1] / file.name).read_bytes() for file in again)
    text = next((tmp_path / "again").glob("*.svg")).read_text()
    assert "dc:date" not in text and "Matplotlib v" not in text


def test_temperatures_are_drawn_where_all_seeds_have_one(tables_of, tmp_path):
    table, own = tables_of("full")
    behind = of_runs.Behind(PROTOCOLS["full"], table, own, "train_all", -1)
    with frame.style():
        assert [a.get_title() for a in of_runs.reliability(behind).axes] == ["before temperature scaling",
                                                                             "after temperature scaling"]  # fmt: skip
        for r in own:
            if r["seed"] == 2:
                (r["folder"] / "predictions_whole_val.npz").write_bytes(b"torn")
        assert [a.get_title() for a in of_runs.reliability(behind).axes] == ["no temperature was fitted"]


def test_a_temperature_sharpens_and_flattens():
    class Answers:
        probabilities = np.array([[0.8, 0.2], [0.6, 0.4]] * 10)
        labels = np.array([0, 1] * 10)
        predictions = np.array([0, 0] * 10)

    flat, _, _ = of_runs._bins([(Answers, 2.0)])
    assert flat == pytest.approx([1 / (1 + 0.25**0.5), 1 / (1 + (2 / 3) ** 0.5)][::-1])


def test_a_test_of_other_data_takes_its_trainings_temperature(tables_of):
    table, own = tables_of("base2new")
    behind = of_runs.Behind(PROTOCOLS["base2new"], table, own, "test_new", 16)
    tested = next(r for r in own if r["spec"]["part"] == "test_new")
    trained = next(r for r in own if r["group"] == tested["group"] and r["seed"] == tested["seed"] and r is not tested)
    assert not (tested["folder"] / "predictions_whole_val.npz").exists()
    assert behind.temperature(tested) == calibration.fitted(trained["folder"])[0]


def test_what_is_missing_leaves_its_picture_out(tables_of, tmp_path):
    """No curves, no predictions, no confusion: the other pictures are still drawn."""
    table, own = tables_of("full")
    for r in own:
        (r["folder"] / "predictions.npz").unlink()
        shutil.rmtree(r["folder"] / "tensorboard")
        del r["confusion"]
    found = pictures.of_one_table(PROTOCOLS["full"], table, own, tmp_path / "p", "p")
    assert [p["name"] for p in found] == ["differences", "cost"]


def test_a_class_without_test_images_is_no_bar(tables_of):
    table, own = tables_of("full")
    for r in own:
        r["confusion"][2] = [0] * len(r["classes"])
    with frame.style():
        made = of_runs.per_class(of_runs.Behind(PROTOCOLS["full"], table, own, "train_all", -1))
    names = [t.get_text() for t in made.axes[0].get_yticklabels()]
    assert names == [c for i, c in enumerate(own[0]["classes"]) if i != 2]
    own[0]["confusion"] = [["x"]]
    assert of_runs.confusion_of(own) is None


def test_a_torn_log_is_no_curve(tmp_path):
    (tmp_path / "tensorboard").mkdir()
    (tmp_path / "tensorboard" / "events.out.tfevents.1").write_bytes(b"\x00torn" * 50)
    assert of_runs.logged({"folder": tmp_path}) == {}


def summary(sets, methods=("A", "B", "C", "D")):
    rng = np.random.default_rng(1)
    made = {}
    for s in range(sets):
        data = [{"label": m, "shots": -1, "parts": ["train_all"],
                 "figures": {"accuracy": {"test": (50 - 5 * i + rng.normal(), 1.0), "seeds": 3}}}
                for i, m in enumerate(methods)]  # fmt: skip
        made[f"set{s}"] = {"data": data}
    return over_sets.summaries(PROTOCOLS["full"], made)


@pytest.mark.parametrize(("sets", "drawn"), [(5, 0), (6, 1), (12, 1)])
def test_critical_differences_from_six_sets(tmp_path, sets, drawn):
    found = pictures.of_data_sets(summary(sets), "full over data sets", tmp_path, "s")
    assert len(found) == drawn == len(list(tmp_path.glob("*.svg")))


def test_bars_join_those_within_the_critical_difference():
    assert of_table._groups([1.0, 1.5, 2.4, 4.0], 1.0) == [(0, 1), (1, 2)]
    assert of_table._groups([1.0, 1.5, 2.4, 4.0], 3.5) == [(0, 3)]
    assert of_table._groups([1.0, 3.0], 0.5) == []


def test_many_long_names_in_a_critical_difference_diagram():
    (found,) = summary(8, [f"{made_up.LONG}{i}" for i in range(25)])
    with frame.style():
        made = of_table.critical_difference(found | {"title": made_up.LONG})
        made.canvas.draw()
        assert not cut(made)


def test_of_forty_rows_the_highest_are_shown_and_said(tables_of):
    table, own = tables_of("full")
    behind = of_runs.Behind(PROTOCOLS["full"], table, own, "train_all", -1)
    assert "all rows" in behind.title("x") and "the 2 highest of 4 rows" in behind.title("x", 2)
    value = lambda row: np.mean(list(row["parts"]["train_all"]["accuracy"].values()))  # noqa: E731
    assert [value(r) for r in behind.rows] == sorted(map(value, behind.rows), reverse=True)


def test_names_are_one_line_and_keep_both_ends():
    with frame.style():
        made, _ = frame.figure("t", 2)
        short = frame.fitted(made, made_up.LONG + "end", 1.5)
        assert frame.width_of(made, short, frame.LABEL) <= 1.5 and short.startswith("a meth") and short.endswith("end")
        assert frame.clean("_a\nb\x00") == " _a b" and frame.fitted(made, "CoOp") == "CoOp"
        assert all(frame.width_of(made, line, 9) <= 2 for line in frame.wrapped(made, "W" * 300 + " a b", 2, 9))


def test_a_report_has_all_pictures_beside_and_names_them(runs, tmp_path):
    report.main([runs / "full"], tmp_path / "r")
    text = (tmp_path / "r" / "report.md").read_text()
    linked = re.findall(r"\]\(([^)]+\.(?:svg|png))\)", text)
    assert len(linked) > 4 and all((tmp_path / "r" / name).is_file() for name in linked)
    assert json.loads(next((tmp_path / "r").glob("full*-ViT-B-16.json")).read_text())["title"]
