"""Every compared method gives the numbers of its authors' code: logits, losses, gradients and what else was noted."""

import runpy

import pytest

from cilmp import trainers
from cilmp.tests.official import hashed, parity

# test_cilmp.py; beside the repository only; test_mmrl.py and test_two_sfs.py; test_official_feature_peers.py
ELSEWHERE = {"CILMP", "SSText", "MMRL", "TwoSFS", "TaskRes", "CLAP", "CrossModal", "TransCLIP", "TransCLIPFS"}
HAVE_NONE = {"FineTune", "BiomedDPT"}  # nobody's recipe; an archive that cannot be read


def beyond(found, limits):
    """What of {quantity: difference} is too large, or no number."""
    return {k: v for k, v in found.items() if not v <= limits.get(k, parity.OTHERWISE)}


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    return parity.Workplace(tmp_path_factory.mktemp("kept"), lambda preset: getattr(hashed, preset)())


@pytest.fixture(scope="module")
def shared(shared_data, tmp_path_factory):
    """The folder of official numbers beside the repository, and a workplace with the weights they were made under."""
    folder = shared_data / "oracle" / "peers"
    if not folder.is_dir():
        pytest.skip(f"the numbers of the compared methods' official code are not here ({folder})")
    weights = runpy.run_path(str(folder / "weights.py"))["weights"]
    return folder, parity.Workplace(tmp_path_factory.mktemp("shared"), weights)


@pytest.mark.parametrize("name", hashed.kept())
def test_numbers_kept_here(workplace, name):
    for method, found in parity.differences(hashed.load(name), workplace).items():
        assert beyond(found, parity.TOLERANCE | parity.LOOSE.get(name, {})) == {}, method


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if n in parity.LOOSE else n for n in parity.SHARED]
)
def test_numbers_beside_the_repository(shared, name):
    folder, workplace = shared
    for method, found in parity.differences(parity.load(folder / f"{name}.npz"), workplace).items():
        for quantity in parity.THEIR_FAULT.get(name, ()):
            assert found.pop(quantity) > 0.1  # no longer so: no longer an exception
        assert beyond(found, parity.TOLERANCE | parity.LOOSE.get(name, {})) == {}, method


def test_no_case_is_forgotten(shared):
    assert {path.stem for path in shared[0].glob("*.npz")} == set(parity.SHARED)


def test_every_method_has_official_numbers():
    covered = {meta["method"] for meta in hashed.kept().values()} | {"TipAdapterF"}  # of Tip-Adapter's cases
    assert set(trainers.methods()) == covered | ELSEWHERE | HAVE_NONE
