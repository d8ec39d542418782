"""Run a checkout's own train.py as its authors do, nothing in it changed, for one trainer after the other:

    cd CHECKOUT && python theirs.py WEIGHTS OUTPUT TRAINER,TRAINER ... --root DATA ...

Only its `clip` gets a file instead of a download. A trainer without a training step is tested, with --eval-only.
After each one a line `===TRAINER: ` says its last accuracy, or the error's kind and words.
"""

import contextlib
import importlib
import io
import os
import re
import runpy
import sys


class Heard(io.StringIO):
    """What is said, as it is said."""

    def write(self, text):
        sys.__stdout__.write(text)
        return super().write(text)


def outcome(words):
    heard = Heard()
    try:
        with contextlib.redirect_stdout(heard):
            sys.argv = ["train.py", *words]
            runpy.run_path("train.py", run_name="__main__")
    except NotImplementedError:
        return outcome([*words[:2], "--eval-only", *words[2:]]) if "--eval-only" not in words else "no test either"
    except BaseException as error:
        return f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
    found = re.findall(r"\* accuracy: ([\d.]+)%", heard.getvalue())
    return f"accuracy {found[-1]}" if found else "no accuracy"


if __name__ == "__main__":
    weights, output, trainers, *words = sys.argv[1:]
    sys.path[0] = os.getcwd()
    for name in ("clip", "clip.clip"):
        module = importlib.import_module(name)
        if hasattr(module, "_download"):
            module._download = lambda *args, **kwargs: weights
    for trainer in trainers.split(","):
        told = outcome(["--trainer", trainer, "--output-dir", os.path.join(output, trainer), *words])
        print(f"\n==={trainer}: {told}", file=sys.__stdout__, flush=True)
