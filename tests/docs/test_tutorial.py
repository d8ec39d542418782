"""The tutorial's commands, as they stand there, on real images; one epoch instead of the method's own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cilmp.tests.docs.pages import blocks
from dassl.utils.paths import REPO

BLOCKS = blocks((REPO / "docs" / "tutorial.md").read_text(encoding="utf-8"))


def script(raw, llm):
    """The page's bash blocks but the set-up, and without `llm` but those that ask a language model."""
    wanted = [b for b in BLOCKS if "scripts/setup.sh" not in b and (llm or "cilmp extract" not in b)]
    text = "set -euxo pipefail\n" + "\n".join(wanted)
    assert "RAW=~/my_images" in text
    return text.replace("RAW=~/my_images", f"RAW='{raw}'")


def followed(place, raw, llm=False):
    """Follow the page in an empty folder; returns the folder it works in, and what was printed."""
    tools = place / "bin"
    tools.mkdir()
    (tools / "cilmp").write_text(f'#!/bin/sh\nexec "{sys.executable}" "{REPO / "cilmp"}" "$@"\n')
    (tools / "python").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    for tool in tools.iterdir():
        tool.chmod(0o755)
    own = ("DATA", "OUTPUT", "SHOTS", "METHODS", "BACKBONE", "LLM", "OPTS", "PLUGIN", "FORCE")
    env = {k: v for k, v in os.environ.items() if k not in own}
    env |= {"PATH": f"{tools}{os.pathsep}{env['PATH']}", "EPOCHS": "1"}
    done = subprocess.run(["bash", "-c", script(raw, llm)], cwd=place, env=env, capture_output=True, text=True,
                          timeout=1200)  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return Path(place, "study"), done.stdout


def test_the_tutorial_from_images_to_a_report(shared_data, tmp_path):
    study, said = followed(tmp_path, shared_data / "blood_cells")
    page = (REPO / "docs" / "tutorial.md").read_text(encoding="utf-8")
    for line in ("all                                          252      36      72     360", "cells: clean",
                 "grouped by: groups.csv, column source_image; 360 of 360 images have an id, 260 groups"):  # fmt: skip
        assert line in said
    assert said.split("partition:")[0] in page  # the table that the page shows
    for file in ("output/few_shot/cells/table.md", "output/report/report.md", "output/check/cells.png"):
        assert (study / file).is_file() and file.split("/")[-1] in page
    assert "chosen on val, 16 shots: LR=" in said and "groups resampled" in said
    assert len(list(study.glob("output/few_shot/cells/**/results.json"))) == 18 + 3


@pytest.mark.slow
def test_the_tutorial_with_a_language_model(shared_data, tmp_path):
    _, said = followed(tmp_path, shared_data / "blood_cells", llm=True)
    assert "asked: In an image, describe" in said and "CILMP         16" in said
