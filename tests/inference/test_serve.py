"""cilmp serve: what `--api` documents, asked with curl; nothing kept, nobody else without a token."""

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import cilmp
from cilmp.__main__ import main as command
from cilmp.inference import serve, serve_command
from cilmp.inference.serve_api import HOW
from cilmp.tests.datasets import dicom_files
from cilmp.tests.inference.runs import NAMES, finished_run
from dassl.utils.errors import UserError

pytest.importorskip("gradio")
HOST = "127.0.0.1"


def free_port():
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return finished_run("CoOp", tmp_path_factory.mktemp("coop"))[:2]


def ask(address, image, login=""):
    """What the three documented calls print, of a shell."""
    how = HOW.format(address=address).replace("scan.png", str(image))
    lines = [line.strip() for line in how.split("\n\n")[1].replace("\\\n", " ").splitlines()]
    script = "\n".join([login, *lines] if login else lines)
    script = script.replace("curl -s", "curl -s -b jar") if login else script
    return subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=300,
                          cwd=tempfile.mkdtemp()).stdout  # fmt: skip


def answers(text):
    return json.loads(text.split("data: ", 1)[1].splitlines()[0])[0]


@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not here")
def test_the_documented_call(run, tmp_path):
    folder, paths = run
    model, port = cilmp.load(folder, device="cpu"), free_port()
    (tmp_path / "text.png").write_text("no image")
    with serve.served([model, model], HOST, port):
        first, second = answers(ask(f"http://{HOST}:{port}", paths[0]))
        bad = answers(ask(f"http://{HOST}:{port}", tmp_path / "text.png"))
        page = subprocess.run(["curl", "-s", f"http://{HOST}:{port}/config"], capture_output=True, text=True).stdout
        uploads = os.environ["GRADIO_TEMP_DIR"]
    assert first == second and first["method"] == "CoOp" and list(first["probabilities"]) == NAMES
    assert first["answer"] == model.predict([paths[0]])[0]
    assert "error" in bad[0] and uploads not in bad[0]["error"] and "\n" not in bad[0]["error"]
    assert "No medical device" in page and json.loads(page)["analytics_enabled"] is False
    assert not Path(uploads).exists()
    assert not list(Path(tempfile.gettempdir(), "gradio").rglob(Path(paths[0]).name))


@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not here")
def test_others_need_the_token(run):
    model, port = cilmp.load(run[0], device="cpu"), free_port()
    address = f"http://{HOST}:{port}"
    login = f"curl -s -c jar -F username=cilmp -F password=secret {address}/login > /dev/null"
    with serve.served([model], HOST, port, "secret"):
        assert "probabilities" not in ask(address, run[1][0])
        assert answers(ask(address, run[1][0], login))[0]["method"] == "CoOp"


def test_whom_it_listens_to(run, monkeypatch):
    seen = []

    class Stop(Exception):
        pass

    def served(models, host, port, token, among):
        seen.append(token)
        raise Stop

    monkeypatch.setattr(serve, "served", served)
    for words in ([], ["--host", "0.0.0.0"], ["--host", "0.0.0.0", "--token", "mine"]):
        with pytest.raises(Stop):
            command(["serve", str(run[0]), "--port", str(free_port()), *words])
    assert seen[0] == "" and len(seen[1]) >= 12 and seen[2] == "mine"


def test_ctrl_c_is_how_a_page_stops(run, monkeypatch, capsys):
    class Stopped:
        def wait(self):
            raise KeyboardInterrupt

    monkeypatch.setattr(serve, "served", lambda *_: contextlib.nullcontext())
    monkeypatch.setattr(serve_command.threading, "Event", Stopped)
    assert command(["serve", str(run[0]), "--port", str(free_port()), "--host", "::1"]) == 0
    assert re.search(r"^http://\[::1\]:\d+ - stop with Ctrl-C$", capsys.readouterr().out, re.MULTILINE)


@pytest.mark.skipif(not os.path.exists("/proc/net/if_inet6"), reason="no IPv6 here")
def test_this_machine_by_its_other_address(run):
    port = free_port()
    with serve.served([cilmp.load(run[0], device="cpu")], "::1", port) as blocks:
        assert blocks.local_url == f"http://[::1]:{port}/"


def test_a_port_in_use(run):
    with socket.socket() as other:
        other.bind((HOST, 0))
        other.listen()
        with pytest.raises(UserError, match="can't be listened to") as refused:
            command(["serve", str(run[0]), "--port", str(other.getsockname()[1])])
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("number, said, right", [
    (None, "Of <strong><bdi>loop.dcm</bdi></strong>:", False), (2, "frame 2 of 3:", True), (4, "frame 4 of 3:", False)])
def test_a_film(run, tmp_path, number, said, right):
    """Answered of the frame that is named; else it is said what to do, without the place of the upload."""
    frames = np.random.default_rng(0).integers(0, 256, (3, 40, 40))
    model, path = cilmp.load(run[0], device="cpu"), dicom_files.film(tmp_path / "loop.dcm", frames, bits=8)
    _, field, name, shown = serve._shown([model], path, number, serve.Among())
    assert field["visible"] and said in name and ('class="answer"' in shown) is right
    assert right or ("frames" in shown and str(tmp_path) not in shown)
    record = serve.asked(model, path)
    assert "holds 3 frames" in record["error"] and str(tmp_path) not in record["error"]


def test_of_several_pages_the_first_is_said(run, tmp_path):
    first = Image.new("RGB", (20, 20))
    first.save(tmp_path / "pages.tif", save_all=True, append_images=[first])
    model = cilmp.load(run[0], device="cpu")
    _, field, name, _ = serve._shown([model], str(tmp_path / "pages.tif"), 2, serve.Among())
    assert "the first of 2 pages:" in name and not field["visible"]


def test_how_a_program_asks(capsys):
    assert command(["serve", "anything", "--api", "--port", "9000"]) == 0
    assert "http://127.0.0.1:9000/gradio_api/call/answer" in capsys.readouterr().out


def test_gradio_is_missing(monkeypatch):
    monkeypatch.setattr(serve.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'cilmp\[serve\]'"):
        serve.gradio()
    assert serve_command.LOOPBACK[0] == HOST


def test_one_explanation_at_a_time(run, monkeypatch):
    model, inside, most = cilmp.load(run[0], device="cpu"), [], []
    explain = model.explain

    def watched(*args, **kwargs):
        inside.append(1)
        most.append(len(inside))
        found = explain(*args, **kwargs)
        inside.pop()
        return found

    monkeypatch.setattr(model, "explain", watched)
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda _: serve.asked(model, run[1][0]), range(2))
    assert first == second and most == [1, 1]
