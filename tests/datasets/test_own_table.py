"""Tables of one's own: encodings, columns, labels; all faulty rows are told by their lines before anything is made."""

import csv

import pytest

from cilmp.datasets import text_table
from cilmp.datasets.prepare import own
from cilmp.datasets.prepare.run import Options, make
from cilmp.tests.datasets import raw_trees
from dassl.utils.errors import MissingFile, UserError

NAMES = [f"{i}.png" for i in range(12)]
QUIET = Options(workers=1, progress=False)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CILMP_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def write(tmp_path):
    """write(rows, head) -> labels.csv beside twelve images."""
    raw_trees.pictures(tmp_path / "t", NAMES)

    def save(rows, head=("path", "label"), encoding="utf-8", delimiter=","):
        with open(tmp_path / "t" / "labels.csv", "w", encoding=encoding, newline="") as f:
            csv.writer(f, delimiter=delimiter).writerows([head, *rows])
        return tmp_path / "t" / "labels.csv"

    return save


def labelled(*labels):
    return [(name, labels[i % len(labels)]) for i, name in enumerate(NAMES)]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32", "latin-1"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_class_names_come_whole_out_of_any_encoding(encoding, delimiter, write):
    raw = own.table(write(labelled("Lésion", "naïve"), encoding=encoding, delimiter=delimiter))
    assert raw.classnames == ("Lésion", "naïve")
    said = "labels.csv is not UTF-8 (line 2): read as Latin-1 (Windows-1252), e.g. 'Lésion'; is it right?"
    assert raw.remarks == ([said] if encoding == "latin-1" else [])


@pytest.mark.parametrize("content, words", [
    (b"PK\x03\x04\x14\x00", "is a workbook, not text"), ("path,label\n".encode("utf-16-le"), "zero bytes"),
    (b"path,label\na.png,\x81\x8d\n", "line 2 is neither UTF-8 nor Latin-1"), (b"", "the table is empty"),
    (b"path,label\n", "the table is empty"), (b'path,label\n"a.png,x\nb.png,y\n', "line 2: unexpected end of data")])
def test_what_is_no_table_is_one_line(content, words, tmp_path):
    (tmp_path / "labels.csv").write_bytes(content)
    with pytest.raises(UserError, match=words) as error:
        own.table(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("rows, head, words", [
    ([*labelled("a", "b")[:9], ("9.png", ""), ("10.png", "NaN"), ("", "a")], ("path", "label"),
     "3 of 12 rows are wrong: line 11: no label; line 12: no label ('NaN'); line 13: no path"),
    ([(n, "nan") for n in NAMES], ("path", "label"), "12 of 12 rows are wrong: line 2: no label ('nan'); line 3"),
    ([(n, "nan") for n in NAMES], ("path", "label"), "line 6: no label ('nan'); and 7 more"),
    (labelled("Covid", "normal", "covid"), ("path", "label"),
     "'Covid' (4 rows, first line 2) and 'covid' (4 rows, first line 4)"),
    (labelled("a b", "normal", "a_b"), ("path", "label"), "differ only in case, blanks, '_' or '-'"),
    (labelled("1", "0.5"), ("path", "label"), "line 3: label 0.5; labels are whole numbers from 0"),
    (labelled("1", "-1"), ("path", "label"), "line 3: label -1"),
    ([(n, "a", "b") for n in NAMES], ("path", "label", "Label"), "two columns are called 'label'"),
    ([(n, "a", "b") for n in NAMES], ("path", "label"), "12 of 12 rows are wrong: line 2: 3 cells, the header has 2"),
    ([*labelled("a", "b"), ("0.png", "a")], ("path", "label"), "line 14: 0.png is in line 2 already"),
    ([*labelled("a", "b"), ("./0.png", "b")], ("path", "label"),
     "line 14: ./0.png is in line 2 already, as 'a'; one label an image, multi-label sets are not supported"),
    (labelled("a"), ("path", "label"), "one class alone, 'a'"),
    ([(n, i % 2, "ab"[i % 2] if i else "b") for i, n in enumerate(NAMES)], ("path", "label", "name"),
     "classes with several labels: '0' (1 rows, first line 2) and '1' (6 rows, first line 3)"),
    ([(n, i % 2, f"{i % 2}{i % 4}") for i, n in enumerate(NAMES)], ("path", "label", "name"),
     "labels with several class names: '00' (3 rows, first line 2) and '02' (3 rows, first line 4); '11' (3"),
    ([(n, "ab"[i % 2], ("train", "later")[i % 2]) for i, n in enumerate(NAMES)], ("path", "label", "split"),
     "6 of 12 rows are wrong: line 3: split 'later'; expected train, val or test; line 5"),
    ([(n, "ab"[i % 2], "") for i, n in enumerate(NAMES)], ("path", "label", "patient"), "holds no id in any row")])
def test_all_faulty_rows_are_told_by_their_line(rows, head, words, write):
    path = write(rows, head)
    with pytest.raises(UserError) as error:
        own.table(path)
    assert words in str(error.value) and str(path) in str(error.value), error.value
    assert "\n" not in str(error.value) and "split.json" not in str(error.value)


def test_files_that_are_not_there_are_told_by_their_line(write):
    path = write([*labelled("a", "b"), ("no.png", "a"), (f"{'x' * 300}.png", "b")])
    with pytest.raises(MissingFile, match=r"2 of 14 files are not there: line 14: no.png; line 15: xxx"):
        own.table(path)


def test_whole_numbers_are_one_class_however_they_are_written(write):
    raw = own.table(write(labelled("2.0", "2", "10", "10.0")))
    assert raw.classnames == ("2", "10") and "class names are numbers" in raw.remarks[0]


def test_a_class_may_be_called_none_and_a_cell_may_hold_a_line_break(write):
    assert own.table(write(labelled("none", "some, or\nmore"))).classnames == ("none", "some, or\nmore")


@pytest.mark.parametrize("head", ["group", "patient_id", "Patient ID", "patient", "subject"])
def test_a_column_with_ids_makes_the_groups_and_is_named(head, write):
    raw = own.table(write([(n, "ab"[i % 2], ("", "nan", "p1", "p2")[i % 4]) for i, n in enumerate(NAMES)],
                          ("path", "label", head)))
    assert raw.grouping() == f"column {head} of labels.csv; 6 of 12 images have an id, 2 groups"
    assert "6 of 12 images have no id" in next(raw.doubts())


def test_a_groups_table_counts_for_tables_too(write, tmp_path):
    raw_trees.table(tmp_path / "g.csv", ["file", "group"], [(n, f"p{i // 2}") for i, n in enumerate(NAMES)])
    path = write(labelled("a", "b"))
    assert "g.csv, column group; 12 of 12" in own.table(path, groups_file=tmp_path / "g.csv").grouping()
    assert "expression '^.'" not in own.table(path).grouping() and own.table(path, "^(.)").grouped()
    with pytest.raises(UserError, match="finds an id in none of the 12 file names"):
        own.table(path, "patient")


def test_images_in_several_folders_outside_keep_their_folders(tmp_path):
    for name in "ab":
        raw_trees.pictures(tmp_path / "images" / name, [f"{i}.png" for i in range(5)])
    raw_trees.table(tmp_path / "tables" / "labels.csv", ["path", "label"],
                    [(f"../images/{name}/{i}.png", name) for name in "ab" for i in range(5)])
    raw = own.table(tmp_path / "tables")
    lists = make(raw, tmp_path / "tables", tmp_path / "data" / "mine" / "split.json", QUIET)
    files = sorted(f for rows in lists.values() for f, *_ in rows)
    assert files == [f"images/{name}/{i}.png" for name in "ab" for i in range(5)]


def test_mistakes_are_blamed_on_the_table_never_on_a_split_that_is_not_there(write, tmp_path):
    for rows, words in ((labelled("a", "b")[:2], "partition 'test' is empty: 2 images in 2 groups"),
                        ([(n, "ab"[i % 2], ("train", "test")[i % 2]) for i, n in enumerate(NAMES)],
                         "class 'b' (label 1) has no training image"),
                        ([(n, "ab"[i % 2], ("train", "val")[i % 3 > 0]) for i, n in enumerate(NAMES)],
                         "there are images for train and val, but none for test")):
        path = write(rows, ("path", "label", "split")[:len(rows[0])])
        with pytest.raises(UserError) as error:
            make(own.table(path), path.parent, tmp_path / "data" / "m" / "split.json", QUIET)
        assert words in str(error.value) and str(path) in str(error.value) and "split.json" not in str(error.value)
        assert not (tmp_path / "data").exists()


def test_what_the_file_system_refuses_is_one_line(write, tmp_path):
    (tmp_path / "data").touch()
    path = write(labelled("a", "b"))
    with pytest.raises(UserError, match=r"can't be written \(Not a directory"):
        make(own.table(path), path.parent, tmp_path / "data" / "m" / "split.json", QUIET)


def test_a_published_table_keeps_its_lax_quotes(tmp_path):
    (tmp_path / "t.csv").write_text('id;words\n1;a "quoted" word\n\n2;b\n')
    assert text_table.read(tmp_path / "t.csv", strict=False).dicts() == [
        {"id": "1", "words": 'a "quoted" word'}, {"id": "2", "words": "b"}]
