"""dassl without cilmp and without the packages that only our methods need, under a train.py in upstream's manner."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

from dassl.utils.paths import REPO

ONLY_OURS = {"open_clip_torch": "open_clip", "opencv-python-headless": "cv2"}  # distribution: module
SHARED = {"tqdm", "filelock"}  # torch's own
ASKED_FOR = {"matplotlib", "transformers", "tokenizers", "sentencepiece", "accelerate"}  # by torchmetrics, if there
TRAIN = """
import sys
for name in {absent!r}:
    sys.modules[name] = None  # as if it were not installed
sys.path.insert(0, {place!r})
from yacs.config import CfgNode
from dassl.config import get_cfg_default
from dassl.engine import build_trainer
from dassl.utils import collect_env_info, set_random_seed, setup_logger
import upstream_plugin

cfg = get_cfg_default()
cfg.TRAINER.PLUGINCOOP = CfgNode({{"PREC": "fp32"}})
cfg.merge_from_list(["TRAINER.NAME", "PluginCoOp", "DATASET.NAME", "PluginPets", "DATASET.ROOT", {root!r}, "SEED", 1,
                     "OUTPUT_DIR", "out", "INPUT.SIZE", (16, 16), "INPUT.TRANSFORMS", ("random_flip", "normalize"),
                     "OPTIM.MAX_EPOCH", 1, "DATASET.NUM_SHOTS", 2, "DATALOADER.TRAIN_X.BATCH_SIZE", 2,
                     "DATALOADER.NUM_WORKERS", 0])
cfg.freeze()
set_random_seed(cfg.SEED)
setup_logger(cfg.OUTPUT_DIR)
print(collect_env_info())
trainer = build_trainer(cfg)
trainer.train()
trainer.load_model("out", epoch=1)
trainer.test()
"""


def test_a_train_py_runs_on_what_the_page_installs(pets, tmp_path):
    page = (REPO / "docs" / "extending" / "dassl.md").read_text()
    installed = set(re.search(r"^pip install (torch .*)$", page, re.M)[1].split())
    needed = re.findall(r"^[\w-]+", (REPO / "requirements.txt").read_text(), re.M)
    absent = [ONLY_OURS.get(name, name) for name in needed if name not in installed | SHARED | ASKED_FOR]
    assert installed <= set(needed) and {"open_clip", "timm", "cv2", "gdown", "tensorboard"} <= set(absent)
    shutil.copytree(REPO / "dassl", tmp_path / "dassl")
    shutil.copy(Path(__file__).with_name("upstream_plugin.py"), tmp_path)
    code = TRAIN.format(absent=[*absent, "cilmp"], place=str(tmp_path), root=str(pets))
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("* accuracy: ") == 2
    assert (tmp_path / "out" / "prompt_learner" / "model.pth.tar-1").is_file()
