"""Run a checkout's own train.py as its authors do, nothing in it changed:

    cd CHECKOUT && python theirs.py WEIGHTS --trainer CoOp ...

Only its `clip` gets a file instead of a download.
"""

import importlib
import os
import runpy
import sys

if __name__ == "__main__":
    weights, sys.argv = sys.argv[1], ["train.py", *sys.argv[2:]]
    sys.path[0] = os.getcwd()
    for name in ("clip", "clip.clip"):
        module = importlib.import_module(name)
        if hasattr(module, "_download"):
            module._download = lambda *args, **kwargs: weights
    runpy.run_path("train.py", run_name="__main__")
