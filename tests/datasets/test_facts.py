"""The table of facts: complete, in agreement with itself, and with the page made from it; overlaps."""

import pytest

from cilmp import datasets
from cilmp.datasets.docs import PAGE, page
from cilmp.datasets.facts import Facts, Layout, Table, article, phrase
from cilmp.datasets.overlap import overlap, refuse_overlap
from cilmp.datasets.tables import TABLE
from dassl.data.datasets import DATASET_REGISTRY
from dassl.utils.errors import UserError

CILMP = ["ADAM", "APTOS", "BLOODMNIST", "BUSI", "CHAOYANG", "CPN_X_RAY", "Derm7pt", "DERMAMNIST", "FETAL_US", "ISIC",
         "KVASIR", "ODIR", "ODIR2", "PNEUMONIA2", "PNEUMONIA3"]
BIOMEDCOOP = ["BTMRI", "BUSI", "CHMNIST", "COVID_19", "CTKidney", "DermaMNIST", "KneeXray", "Kvasir", "LungColon",
              "OCTMNIST", "RETINA"]
MEDMNIST = ["pathmnist", "dermamnist", "octmnist", "pneumoniamnist", "retinamnist", "breastmnist", "bloodmnist",
            "tissuemnist", "organamnist", "organcmnist", "organsmnist"]


@pytest.mark.parametrize("name", [*CILMP, *BIOMEDCOOP, *MEDMNIST, "ImageFolder", "CSV", "DICOM", "phantom"])
def test_every_name_is_in_the_registry(name):
    assert name in DATASET_REGISTRY.registered_names()
    assert datasets.resolve(name).__name__ == name


@pytest.mark.parametrize("name", TABLE.sets())
def test_rows_are_complete(name):
    f = TABLE[name]
    assert len(set(f.classnames)) == len(f.classes) >= 2
    assert not f.counts or len(f.counts) == len(f.classes)
    assert f.modality and f.organ and f.home.startswith("http") and f.licence and f.group and f.partition and f.sources
    assert f.download.partition(":")[0] in ("", "zenodo", "kaggle", "url") and (f.download or f.click)


def test_the_table_holds_the_facts_of_the_published_papers():
    assert TABLE["BUSI"].classnames == ("normal", "malignant", "benign")
    assert TABLE["Derm7pt"].counts == (42, 45, 252, 97, 575) and sum(TABLE["Derm7pt"].counts) == 1011
    assert sum(TABLE["ISIC"].counts) == sum(TABLE["DermaMNIST"].counts) == 10015
    assert TABLE["ODIR2"].layouts[0] == Layout("odir_simple", "odir2.json")
    assert TABLE["PNEUMONIA2"].layouts[0].folder == TABLE["PNEUMONIA3"].layouts[0].folder == "pneumonia"
    assert {n for n in TABLE.sets() if TABLE[n].lateral} == {"organamnist", "organcmnist", "organsmnist"}


def test_medmnist_names_are_those_of_the_package():
    info = pytest.importorskip("medmnist").INFO
    for name in MEDMNIST:
        names = list(info[name]["label"].values())
        if name != "retinamnist":  # digits there
            assert [n.lower() for n in TABLE[name].classnames] == [n.lower() for n in names]
        assert len(TABLE[name].classes) == len(names)


def test_a_name_is_taken_once():
    row = TABLE["BUSI"]
    with pytest.raises(UserError, match="two data sets are called 'BUSI'"):
        Table().add(row, row)


def test_a_plugins_reader_of_the_same_name_wins():
    ours = DATASET_REGISTRY.get("CTKidney")

    class CTKidney:
        """As an official project would register it."""

    try:
        DATASET_REGISTRY.register(CTKidney)
        assert datasets.resolve("CTKidney") is CTKidney
    finally:
        DATASET_REGISTRY.register(ours, force=True)


def test_a_class_is_called_by_its_wording_and_modality():
    assert phrase("melanoma") == "melanoma"
    assert phrase("cyst", "abdominal CT slice") == "cyst in an abdominal CT slice"
    assert [article(p) for p in ("H&E-stained patch", "MRI slice", "CT slice", "image", "fundus photograph")] == [
        "an", "an", "a", "an", "a"]


def test_shared_sources_are_refused_unless_allowed(monkeypatch, shared_data):
    monkeypatch.delenv("ALLOW_OVERLAP", raising=False)
    for a, b in (("ISIC", "DermaMNIST"), ("BUSI", "breastmnist"), ("COVID_19", "PNEUMONIA3"), ("ODIR2", "RETINA"),
                 ("Kvasir", "KVASIR"), ("organamnist", "organsmnist")):
        assert overlap(a, b), (a, b)
        with pytest.raises(UserError, match="ALLOW_OVERLAP=1"):
            refuse_overlap(a, b)
    assert not overlap("BUSI", "ISIC") and refuse_overlap("BUSI", "ISIC") == ""
    assert overlap("mixed_six", "covid_xray", shared_data) and not overlap("covid_xray", "blood_cells", shared_data)
    monkeypatch.setenv("ALLOW_OVERLAP", "1")
    assert "HAM10000" in refuse_overlap("ISIC", "DermaMNIST")


def test_the_page_is_made_from_the_table():
    text = PAGE.read_text(encoding="utf-8")
    assert page(text) == text, "run python -m cilmp.datasets.docs"


def test_facts_are_plain_values():
    assert all(isinstance(TABLE[n], Facts) and hash(TABLE[n].classes) for n in TABLE)
