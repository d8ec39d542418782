#!/usr/bin/env python
"""One run: train (or only evaluate) one method on one data set with one seed.

    python train.py --trainer CILMP --dataset phantom --backbone demo --llm smollm2-135m --seed 1 \\
        --config-file configs/trainers/demo.yaml --output-dir output/try DATASET.NUM_SHOTS 16
    python train.py --list

The flags are CoOp's; KEY VALUE pairs at the end win over everything. For whole protocols see scripts/.
"""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))  # also in a spawned worker
import cilmp

cilmp.off_path()
from cilmp.experiments.single import main  # noqa: E402
from dassl.utils.errors import run_main  # noqa: E402

if __name__ == "__main__":
    run_main(main, resume_hint="The same command goes on where it was.")
