"""Partitions: grouped, stratified within one image, the same for the same seed."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cilmp.datasets.partition import RATIOS, complete, leaks, partition
from cilmp.datasets.split_file import PARTS
from dassl.utils.errors import UserError

sizes = st.lists(st.integers(1, 60), min_size=1, max_size=6)


def images(sizes):
    classes = [f"c{label}" for label, n in enumerate(sizes) for _ in range(n)]
    return classes, [f"{c}-{i}" for i, c in enumerate(classes)]


@settings(max_examples=60, deadline=None)
@given(sizes, st.integers(0, 5))
def test_without_groups_every_class_is_stratified_within_one_image(sizes, seed):
    classes, alone = images(sizes)
    parts = partition(classes, alone, RATIOS, seed)
    assert set(parts) <= set(PARTS) and len(parts) == len(classes)
    for name, n in Counter(classes).items():
        found = Counter(p for p, c in zip(parts, classes) if c == name)
        assert all(abs(found[p] - share * n) < 1 + 1e-6 for p, share in zip(PARTS, RATIOS))
        assert found["train"] >= 1


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 30)), min_size=1, max_size=150), st.integers(0, 3))
def test_a_group_is_never_in_two_parts(rows, seed):
    classes, groups = [f"c{c}" for c, _ in rows], [f"g{g}" for _, g in rows]
    assert leaks(partition(classes, groups, RATIOS, seed), groups) == {}


@settings(max_examples=30, deadline=None)
@given(sizes, st.randoms())
def test_the_order_of_the_list_does_not_matter_the_seed_does(sizes, rng):
    classes, alone = images(sizes)
    parts = dict(zip(alone, partition(classes, alone, RATIOS, 1)))
    order = list(range(len(classes)))
    rng.shuffle(order)
    again = partition([classes[i] for i in order], [alone[i] for i in order], RATIOS, 1)
    assert {alone[i]: p for i, p in zip(order, again)} == parts


def test_another_seed_is_another_partition():
    classes, alone = images([50, 50])
    assert partition(classes, alone, RATIOS, 1) != partition(classes, alone, RATIOS, 2)


def test_many_small_groups_stay_near_the_wished_shares():
    classes = [f"c{i % 3}" for i in range(900)]
    groups = [f"g{i // 4}" for i in range(900)]  # groups of four images, mixed classes
    parts = partition(classes, groups)
    for name in ("c0", "c1", "c2"):
        found = Counter(p for p, c in zip(parts, classes) if c == name)
        assert abs(found["train"] - 210) <= 4 and abs(found["val"] - 30) <= 4 and abs(found["test"] - 60) <= 4


def test_official_parts_stay_and_val_comes_out_of_train_by_group():
    classes = ["a", "b"] * 60
    groups = [f"g{i // 3}" for i in range(120)]
    official = ["train"] * 90 + ["test"] * 30
    parts = complete(official, classes, groups)
    assert parts[90:] == ["test"] * 30
    assert Counter(parts[:90])["val"] == pytest.approx(9, abs=3)
    assert leaks(parts, groups) == {}
    assert complete(["train", "val", "test"], ["a"] * 3, ["x", "y", "z"]) == ["train", "val", "test"]


def test_train_alone_is_no_partition_and_val_alone_is_no_test():
    classes, alone = images([20])
    assert set(complete(["train"] * 20, classes, alone)) == {"train", "val", "test"}
    with pytest.raises(UserError, match="none for test"):
        complete(["train"] * 10 + ["val"] * 10, classes, alone)


def test_leaks_names_the_group_and_its_parts():
    assert leaks(["train", "test", "val", "train"], ["p1", "p1", "", "p2"]) == {"p1": ["train", "test"]}
