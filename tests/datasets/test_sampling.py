"""Few-shot lists equal Dassl's for the same seed; natural shots are those of the realistic protocol."""

import random
from collections import Counter

import pytest

from cilmp.datasets.sampling import few_shot, natural
from dassl.data.datasets.subset import class_subset
from dassl.utils.errors import ConfigError


def rows(sizes, start=0):
    return [(f"{label}/{i + start}.png", label, f"class {label}") for label, n in sizes for i in range(n)]


def dassl_fewshot(items, shots):
    """Dassl's rule, written down from its description: groups by first appearance, random.sample, short ones whole."""
    groups = {}
    for item in items:
        groups.setdefault(item[1], []).append(item)
    return [x for g in groups.values() for x in (random.sample(g, shots) if len(g) >= shots else g)]


@pytest.mark.parametrize("seed", [0, 1, 2, 3])
@pytest.mark.parametrize("shots", [1, 4, 16])
def test_the_lists_are_dassls_for_the_seed(seed, shots):
    train = rows([(3, 40), (0, 25), (2, 7), (1, 16)])  # order of first appearance is not label order
    val = rows([(1, 9), (0, 3), (3, 5), (2, 6)], start=100)
    random.seed(seed)
    expected = dassl_fewshot(train, shots), dassl_fewshot(val, min(shots, 4))
    random.seed(99)  # what else drew in this process does not matter
    assert few_shot(train, val, shots, seed) == expected


def test_val_has_as_many_as_asked_and_train_does_not_change():
    train, val = rows([(0, 40), (1, 40)]), rows([(0, 30), (1, 3)], start=100)
    known = few_shot(train, val, 16, seed=1)
    for asked, wanted in ((0, (4, 3)), (-1, (16, 3)), (9, (9, 3))):
        found, chosen = few_shot(train, val, 16, seed=1, val_shots=asked)
        counts = Counter(label for _, label, _ in chosen)
        assert found == known[0] and (counts[0], counts[1]) == wanted


def test_a_short_class_gives_all_it_has_without_a_draw():
    train, _ = few_shot(rows([(0, 3), (1, 20)]), [], 8, seed=1)
    assert Counter(label for _, label, _ in train) == {0: 3, 1: 8}
    assert train[:3] == rows([(0, 3)])


def test_no_shots_leaves_everything():
    train, val = rows([(0, 5)]), rows([(0, 2)], start=9)
    assert few_shot(train, val, -1, 1) == (train, val)


@pytest.mark.parametrize("shots, counts", [(2, (7, 2, 1, 0, 0)), (16, (60, 14, 5, 1, 0))])
def test_natural_shots_of_the_published_example(shots, counts):
    chosen = natural(rows(list(enumerate((500, 120, 40, 8, 3)))), shots, seed=0)
    assert tuple(Counter(label for _, label, _ in chosen)[c] for c in range(5)) == counts
    assert len(set(chosen)) == len(chosen)


def test_natural_shots_have_no_validation_and_know_their_seed():
    items = rows([(0, 50), (1, 20)])
    first, val = few_shot(items, items[:5], 4, 1, "natural")
    assert val == []
    assert first == few_shot(items, [], 4, 1, "natural")[0] != few_shot(items, [], 4, 2, "natural")[0]
    with pytest.raises(ConfigError, match="balanced or natural"):
        few_shot(items, [], 4, 1, "fair")


def test_base_is_the_larger_half_and_labels_start_at_zero():
    assert class_subset([4, 1, 0, 2, 3], "base") == {0: 0, 1: 1, 2: 2}
    assert class_subset([4, 1, 0, 2, 3], "new") == {3: 0, 4: 1}
    assert class_subset(range(3), "all") == {0: 0, 1: 1, 2: 2}
    with pytest.raises(ConfigError, match="all, base or new"):
        class_subset(range(3), "old")
