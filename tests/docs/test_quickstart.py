"""The notebook: its code runs from the first cell to the last, and what it shows was made without an error."""

import json
import os
import subprocess
import sys

from cilmp.tests.docs.pages import NOTEBOOK, cells
from dassl.utils.paths import REPO


def test_the_code_runs(tmp_path):
    env = os.environ | {"MPLBACKEND": "Agg", "TMPDIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", "\n".join(cells("code"))], cwd=REPO, env=env, capture_output=True,
                          text=True, timeout=600)  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert " methods: " in done.stdout and "an image of" in done.stdout
    (folder,) = tmp_path.glob("quickstart-*")
    assert (folder / "output" / "few_shot" / "phantom" / "table.md").is_file()


def test_the_file_is_a_notebook():
    book = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    assert book["nbformat"] == 4 and all(cell["id"] and cell["source"] for cell in book["cells"])
    outputs = [o for cell in book["cells"] if cell["cell_type"] == "code" for o in cell["outputs"]]
    assert outputs and not [o for o in outputs if o["output_type"] == "error"]
