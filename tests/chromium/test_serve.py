"""The page of `cilmp serve` in a real browser: a DICOM file dropped, runs side by side, sets in words, similar images;
names that are markup, too long or written from the right; by keyboard and for a screen reader."""

import csv
import importlib.util
import json
import os
import shutil
import socket
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import cilmp
from cilmp.inference import calibration, serve
from cilmp.tests.datasets import dicom_files
from cilmp.tests.inference.runs import finished_run

if not importlib.util.find_spec("gradio") and "chromium" not in os.environ.get("CILMP_TEST_WITH", "").split():
    pytest.skip("gradio is not installed", allow_module_level=True)
FROM_THE_RIGHT = "\u202e"  # all that follows in the paragraph is drawn from right to left
HOSTILE = ("<img src=x onerror=window.ran=1>", '"><script>window.ran=1</script>', "a\nline {{7*7}} ${window.ran=1}",
           f"{FROM_THE_RIGHT}gnorw", "L" * 100)  # fmt: skip


def page_of(folders, port, among=()):
    models = [cilmp.load(folder, device="cpu") for folder in folders]
    return serve.served(models, "127.0.0.1", port, among=serve.Among.read(models, among))


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def calibrated(run, folder, threshold, unlike=False):
    """A copy of a run whose sets hold the classes with 1 - p <= threshold, and the likeliest; that finds every image
    unlike the training images, or none."""
    shutil.copytree(run, folder)
    classes, d = json.loads((run / "kept.json").read_text())["classes"], 0
    sets = {"method": "lac", "level": 0.9, "thresholds": [threshold], "n": 20, "unit": "patient", "shift": 0.0}
    if unlike:
        d = cilmp.load(run, device="cpu").features(np.zeros((40, 40, 3), np.uint8)).shape[1]
        calibration.keep_training(folder, np.zeros((1, d), np.float32), np.eye(d, dtype=np.float32))
    content = {"form": calibration.FORM, "classes": classes, "temperature": {"value": 1.0}, "sets": sets,
               "unlike": {"threshold": 0.0} if unlike else None}  # fmt: skip
    (folder / "calibration.json").write_text(json.dumps(content))
    return folder


@pytest.fixture(scope="module")
def run(chromium, tmp_path_factory):
    """(folder, images)."""
    return finished_run("CoOp", tmp_path_factory.mktemp("coop"))[:2]


@pytest.fixture
def up(run):
    """Address of a page of one run, twice; one page a process at a time."""
    port = free_port()
    with page_of([run[0], run[0]], port, [Path(run[1][0]).parent]):
        yield f"http://127.0.0.1:{port}/"


@pytest.fixture(scope="module")
def hostile_runs(chromium, tmp_path_factory):
    """(folders, table of their training images) of a run with hostile names, calibrated so that its sets are of one
    class, and of all."""
    place = tmp_path_factory.mktemp("hostile")
    run, paths, _ = finished_run("BiomedCoOp", place, names=HOSTILE)
    with open(place / "ward.csv", "w", newline="", encoding="utf-8") as f:
        csv.writer(f).writerows([("path", "label"), *zip(paths, HOSTILE)])
    return [calibrated(run, place / "one", 0.0), calibrated(run, place / "all", 1.0, unlike=True)], place / "ward.csv"


@pytest.fixture
def hostile(hostile_runs):
    """Address of a page of them."""
    port = free_port()
    with page_of(hostile_runs[0], port, [hostile_runs[1]]):
        yield f"http://127.0.0.1:{port}/"


@pytest.fixture
def image(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    return tmp_path / "image.png"


def opened(browser, address, width=1400):
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.driver.get("about:blank")
    for kind in ("browser", "performance"):
        browser.driver.get_log(kind)
    browser.driver.get(address)
    browser.until("return document.querySelector('input[type=file]')")


def dropped(browser, file):
    """Until both runs have answered."""
    browser.find("input[type=file]").send_keys(str(file))
    browser.until("return document.querySelectorAll('.cilmp .answer').length === 2", seconds=60)


def severe(browser):
    return [e for e in browser.driver.get_log("browser") if e["level"] == "SEVERE"]


@pytest.mark.parametrize("width", [1400, 390])
def test_a_dicom_file_is_answered(chromium, up, width, tmp_path):
    grey = np.random.default_rng(0).integers(0, 4096, (40, 40))
    scan = dicom_files.write(tmp_path / "scan.dcm", grey, bits=12)
    opened(chromium, up, width)
    dropped(chromium, scan)
    words = chromium.find("body").text
    assert "No medical device" in words and "scan.dcm" in words and words.count("not calibrated") == 2
    assert len(chromium.all(".bars li")) == 6 and len(chromium.all(".pair img")) == 4 and chromium.all(".near img")
    assert chromium.do("return document.documentElement.scrollWidth") <= width  # less a scroll bar
    assert severe(chromium) == []
    logged = [json.loads(e["message"])["message"] for e in chromium.driver.get_log("performance")]
    asked = [m["params"]["request"]["url"] for m in logged if m["method"] == "Network.requestWillBeSent"]
    assert asked and all(url.startswith((up, "data:", "blob:", "about:")) for url in asked)
    assert chromium.barriers() == []


def test_a_film_asks_for_the_frame(chromium, up, image, tmp_path):
    """The field for its number is there only where a file has several frames."""
    from selenium.webdriver.common.keys import Keys

    frames = np.random.default_rng(0).integers(0, 256, (3, 40, 40))
    film = dicom_files.film(tmp_path / "loop.dcm", frames, bits=8)
    opened(chromium, up)
    assert not chromium.all("input[type=number]")
    chromium.find("input[type=file]").send_keys(str(film))
    said = [e.text for e in chromium.until("const e = document.querySelectorAll('.cilmp .warn'); "
                                           "return e.length === 2 && [...e]", seconds=60)]  # fmt: skip
    assert said == ["It holds 3 frames: give the number of one above, and drop the file again."] * 2
    field = chromium.until("return document.querySelector('input[type=number]')")
    assert field.accessible_name.startswith("Frame") and chromium.barriers() == []
    field.send_keys("2", Keys.TAB)
    chromium.until("return document.querySelector('button.upload-container')")
    dropped(chromium, film)
    assert "Of loop.dcm, frame 2 of 3:" in chromium.find("body").text
    chromium.until("return document.querySelector('button.upload-container')")
    chromium.find("input[type=file]").send_keys(str(image))
    chromium.until("return !document.querySelector('input[type=number]')", seconds=60)
    assert "Of image.png:" in chromium.find("body").text


def test_sets_in_words(chromium, hostile, image):
    opened(chromium, hostile)
    dropped(chromium, image)
    one, every = (e.text for e in chromium.all(".set"))
    answer = chromium.all(".answer")[0].text
    assert one.startswith(f"Prediction set: the class is {answer}. Sets made so hold the true class of 90 % of new "
                          "patients")  # fmt: skip
    assert f"the class is one of {len(HOSTILE)}: {answer}, " in every
    flags = [[e.text for e in run.find_elements("css selector", ".warn")] for run in chromium.all("section.run")]
    assert flags[0] == [] and len(flags[1]) == 1 and flags[1][0].startswith("Unlike the training images")


OUTSIDE = """const out = [];
for (const box of document.querySelectorAll('section.run, .html-container > p, .html-container p:only-child')) {
  const edge = box.getBoundingClientRect(), texts = document.createTreeWalker(box, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const range = document.createRange();
    range.selectNodeContents(texts.currentNode);
    const {left, right, width} = range.getBoundingClientRect();
    if (!width) continue;  // blanks of the source
    if (right > edge.right + 1 || left < edge.left - 1) out.push(texts.currentNode.data);
  }
}
return out"""
LEFTS = """const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT), found = [];
while (texts.nextNode()) {
  const at = texts.currentNode.data.indexOf(arguments[0]), range = document.createRange();
  if (at < 0) continue;
  found.push([...arguments[0]].map((_, i) => {
    range.setStart(texts.currentNode, at + i);
    range.setEnd(texts.currentNode, at + i + 1);
    return range.getBoundingClientRect().left;
  }));
}
return found"""


@pytest.mark.parametrize("width", [1400, 390])
def test_names_are_text_whatever_they_hold(chromium, hostile, width, image):
    scan = image.rename(image.with_name(f"<b>scan {FROM_THE_RIGHT}{'n' * 150}.png"))
    opened(chromium, hostile, width)
    dropped(chromium, scan)
    words = chromium.do("return document.body.textContent")
    for name in HOSTILE:
        assert " ".join(name.split()) in " ".join(words.split())
    assert chromium.do("return window.ran") is None
    assert not chromium.all(".cilmp script, .cilmp b, .cilmp img:not([src^='data:'])")
    assert chromium.do("return document.querySelectorAll('.near figcaption').length") == 10
    assert chromium.do(OUTSIDE) == []
    for said in ("Sets", "Numbers", "bright"):  # what follows a name is drawn from left to right
        lefts = chromium.do(LEFTS, said)
        assert lefts and all(found == sorted(found) for found in lefts), said
    assert severe(chromium) == [] and chromium.barriers() == []


def test_by_keyboard(chromium, up, image):
    """The only thing to do, choosing a file, is one Tab away, is seen to be, and is there again after an answer."""
    from selenium.webdriver.common.keys import Keys

    opened(chromium, up)
    listen = "window.asked = 0; document.addEventListener('click', (e) => { if (e.target.type === 'file') " \
             "{ window.asked += 1; e.preventDefault(); } }, true)"  # fmt: skip
    chromium.do(listen)
    for _ in range(2):
        chromium.keys(Keys.TAB)
        active = chromium.driver.switch_to.active_element
        assert active.accessible_name == "Click to upload or drop files"
        assert chromium.do("return getComputedStyle(arguments[0]).outlineStyle", active) != "none"
        before = chromium.do("return window.asked")
        chromium.keys(Keys.ENTER)
        chromium.keys(Keys.SPACE)
        assert chromium.do("return window.asked") == before + 2
        dropped(chromium, image)
        chromium.until("return document.querySelector('button.upload-container')")


def test_what_a_screen_reader_says(chromium, hostile, image):
    """The answer, its bars and its set, at once; not all that stands below; every picture has words."""
    opened(chromium, hostile)
    chromium.do("window.regions = [...document.querySelectorAll('section.run [role=status]')]")
    dropped(chromium, image)
    said = chromium.do("return window.regions.map((e) => e.isConnected ? e.innerText : '')")
    answers = [e.text for e in chromium.all(".answer")]
    assert len(said) == 2
    for text, answer in zip(said, answers):
        assert answer in text and "Prediction set" in text and "%" in text and "What moved" not in text
    assert all(e.get_attribute("alt") for e in chromium.all(".cilmp img"))
    heads = [e.text for e in chromium.all("h1, h2, h3")]
    assert heads[0] == "What trained models say of an image" and "What moved the answer" in heads
