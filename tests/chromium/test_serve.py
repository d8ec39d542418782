"""The page of `cilmp serve` in a real browser: a DICOM file dropped, two runs side by side, similar images."""

import importlib.util
import json
import os
import socket
from pathlib import Path

import numpy as np
import pytest

import cilmp
from cilmp.inference import serve
from cilmp.tests.datasets import dicom_files
from cilmp.tests.inference.runs import finished_run

if not importlib.util.find_spec("gradio") and "chromium" not in os.environ.get("CILMP_TEST_WITH", "").split():
    pytest.skip("gradio is not installed", allow_module_level=True)


@pytest.fixture(scope="module")
def up(chromium, tmp_path_factory):
    """(address, paths)."""
    folder, paths, _ = finished_run("CoOp", tmp_path_factory.mktemp("coop"))
    model = cilmp.load(folder, device="cpu")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with serve.served([model, model], "127.0.0.1", port, among=serve.Among.read([model], [Path(paths[0]).parent])):
        yield f"http://127.0.0.1:{port}/"


@pytest.mark.parametrize("width", [1400, 390])
def test_a_dicom_file_is_answered(chromium, up, width, tmp_path):
    grey = np.random.default_rng(0).integers(0, 4096, (40, 40))
    scan = dicom_files.write(tmp_path / "scan.dcm", grey, bits=12)
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    chromium.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    chromium.driver.get("about:blank")
    for kind in ("browser", "performance"):
        chromium.driver.get_log(kind)
    chromium.driver.get(up)
    chromium.until("return document.querySelector('input[type=file]')")
    chromium.find("input[type=file]").send_keys(str(scan))
    chromium.until("return document.querySelectorAll('.cilmp .answer').length === 2", seconds=60)
    words = chromium.find("body").text
    assert "No medical device" in words and "scan.dcm" in words and words.count("not calibrated") == 2
    assert len(chromium.all(".bars li")) == 6 and len(chromium.all(".pair img")) == 4 and chromium.all(".near img")
    assert chromium.do("return document.documentElement.scrollWidth") <= width  # less a scroll bar
    assert [e for e in chromium.driver.get_log("browser") if e["level"] == "SEVERE"] == []
    logged = [json.loads(e["message"])["message"] for e in chromium.driver.get_log("performance")]
    asked = [m["params"]["request"]["url"] for m in logged if m["method"] == "Network.requestWillBeSent"]
    assert asked and all(url.startswith((up, "data:", "blob:", "about:")) for url in asked)
    assert chromium.barriers() == []
