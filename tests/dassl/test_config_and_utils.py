"""Settings and their mistakes; upstream's helpers."""

import ast
import random

import numpy as np
import pytest
import torch
from torch import nn

from dassl import utils
from dassl.config import clean_cfg, get_cfg_default, keys_of, merge_from_file, merge_from_list
from dassl.config.defaults import UPSTREAM_ONLY
from dassl.utils import Registry, UserError
from dassl.utils.paths import REPO

ROOMS = ("backbones", "dassl", "datasets", "experiments", "knowledge", "protocols", "trainers")


@pytest.mark.parametrize(
    "pair, words",
    [
        (["OPTIM.LRR", "1"], "unknown configuration key OPTIM.LRR in the command line - did you mean OPTIM.LR?"),
        (["OPTIM.LR", "fast"], "OPTIM.LR in the command line must be a number, got 'fast'"),
        (["OPTIM.MAX_EPOCH", "2.5"], "OPTIM.MAX_EPOCH in the command line must be a whole number"),
        (["USE_CUDA", "1"], "USE_CUDA in the command line must be True or False"),
        (["OPTIM", "1"], "OPTIM in the command line is a group of keys"),
        (["SEED"], "'SEED' has no value"),
    ],
)
def test_mistakes_in_settings(pair, words):
    with pytest.raises(UserError) as error:
        merge_from_list(get_cfg_default(), pair)
    assert words in str(error.value) and "\n" not in str(error.value)


def test_every_key_is_read_or_marked_as_upstreams():
    """A key counts as read where its words stand as attributes: `cfg.INPUT` and, maybe elsewhere, `.GN_STD`."""
    files = {path for room in ROOMS for path in (REPO / room).rglob("*.py")} - {REPO / "dassl/config/defaults.py"}
    nodes = [node for path in files for node in ast.walk(ast.parse(path.read_text()))]
    found = [n for n in nodes if isinstance(n, ast.Attribute) and isinstance(n.ctx, ast.Load)]
    words = {n.attr for n in found}
    of_cfg = {n.attr for n in found if ast.unparse(n.value).split(".")[-1] in ("cfg", "config")}
    dead = {k for k in keys_of(get_cfg_default()) if not (set(k.split(".")) <= words if "." in k else k in of_cfg)}
    assert dead == set(UPSTREAM_ONLY)


def test_types_are_kept(tmp_path):
    cfg = get_cfg_default()
    (tmp_path / "c.yaml").write_text("OPTIM:\n  LR: 1\nINPUT:\n  SIZE: [64, 64]\n  TRANSFORMS: ['normalize']\n")
    merge_from_file(cfg, tmp_path / "c.yaml")
    merge_from_list(cfg, ["SEED", "0", "MODEL.BACKBONE.NAME", "ViT-B/16"])
    assert cfg.OPTIM.LR == 1.0 and isinstance(cfg.OPTIM.LR, float) and cfg.INPUT.SIZE == (64, 64)
    assert (cfg.SEED, cfg.MODEL.BACKBONE.NAME) == (0, "ViT-B/16")
    for text, words in (("A: [", "not valid yaml"), ("- 1", "KEY: value")):
        (tmp_path / "bad.yaml").write_text(text)
        with pytest.raises(UserError, match=words):
            merge_from_file(cfg, tmp_path / "bad.yaml")
    with pytest.raises(UserError, match="no configuration file"):
        merge_from_file(cfg, tmp_path / "none.yaml")


def test_plugins_use_yacs_as_they_know_it(tmp_path):
    from yacs.config import CfgNode as CN

    cfg = get_cfg_default()
    cfg.TRAINER.COOP, cfg.TRAINER.OTHER = CN(), CN({"X": 1})
    cfg.TRAINER.COOP.N_CTX = 16
    (tmp_path / "m.yaml").write_text("TRAINER:\n  COOP:\n    N_CTX: 4\nOPTIM:\n  WARMUP_CONS_LR: 1e-5\n")
    cfg.merge_from_file(str(tmp_path / "m.yaml"))
    cfg.merge_from_list(["OPTIM.MAX_EPOCH", "50", "DATASET.SUBSAMPLE_CLASSES", "base"])
    clean_cfg(cfg, "CoOp")
    cfg.freeze()
    cfg["classnames"] = ["a", "b"]  # the official code does this after freezing
    assert cfg.TRAINER.COOP.N_CTX == 4 and "OTHER" not in cfg.TRAINER and cfg.OPTIM.MAX_EPOCH == 50
    with pytest.raises(AttributeError):
        cfg.SEED = 3
    assert get_cfg_default().SEED == -1


def test_every_upstream_helper_is_there():
    for name in ("setup_logger", "Logger", "set_random_seed", "collect_env_info", "mkdir_if_missing", "check_isfile",
                 "read_json", "write_json", "listdir_nohidden", "tolist_if_not", "read_image", "download_url",
                 "check_availability", "get_most_similar_str_to_a_from_b", "Registry", "AverageMeter", "MetricMeter",
                 "save_checkpoint", "load_checkpoint", "resume_from_checkpoint", "load_pretrained_weights",
                 "open_all_layers", "open_specified_layers", "count_num_param", "init_network_weights"):  # fmt: skip
        assert callable(getattr(utils, name)), name


def test_registry():
    table = Registry("THING")

    class A:
        pass

    table.register()(A)
    table.register(A)  # a plugin imported again
    with pytest.raises(KeyError, match="registered in THING already"):
        table.register(type("A", (), {}))
    table.register(type("A", (), {}), force=True)
    with pytest.raises(KeyError, match="unknown thing 'B'"):
        table.get("B")
    assert table.registered_names() == ["A"]


def test_seeds_set_all_generators():
    def draw():
        utils.set_random_seed(5)
        return random.random(), np.random.rand(), torch.rand(()).item()

    assert draw() == draw()


def test_small_files(tmp_path):
    (tmp_path / "sub").mkdir()
    utils.write_json({"ä": 1}, tmp_path / "sub" / "x.json")
    assert utils.read_json(tmp_path / "sub" / "x.json") == {"ä": 1}
    (tmp_path / "sub" / ".hidden").touch()
    assert utils.listdir_nohidden(tmp_path / "sub", sort=True) == ["x.json"]
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(UserError, match="not valid JSON"):
        utils.read_json(tmp_path / "bad.json")
    with pytest.raises(ValueError, match="did you mean 'cat'"):
        utils.check_availability("cet", ["cat", "dog"])
    assert utils.get_most_similar_str_to_a_from_b("cet", ["dog", "cat"]) == "cat"


def test_models_by_layer_and_count():
    model = nn.Sequential()
    model.add_module("body", nn.Linear(3, 3))
    model.add_module("head", nn.Linear(3, 1))
    utils.open_specified_layers(model, "head")
    assert [p.requires_grad for p in model.parameters()] == [False, False, True, True] and not model.body.training
    utils.open_all_layers(model)
    assert all(p.requires_grad for p in model.parameters())
    assert utils.count_num_param(model) == 16 == utils.count_num_param(params=[{"params": list(model.parameters())}])
    utils.init_network_weights(model, "orthogonal", gain=1.0)
    assert torch.allclose(model.body.weight @ model.body.weight.T, torch.eye(3), atol=1e-6)
    assert not model.head.bias.any()


def test_checkpoints_by_the_helpers(tmp_path):
    model, other = nn.Linear(2, 2), nn.Linear(2, 2)
    state = {"state_dict": {f"module.{k}": v for k, v in model.state_dict().items()}, "epoch": 3}
    utils.save_checkpoint(state, tmp_path, is_best=True)
    assert utils.resume_from_checkpoint(tmp_path, other) == 3 and torch.equal(model.weight, other.weight)
    third = nn.Linear(2, 2)
    utils.load_pretrained_weights(third, tmp_path / "model-best.pth.tar")
    assert torch.equal(third.weight, model.weight)
    with pytest.raises(UserError, match="no tensor in"):
        utils.load_pretrained_weights(nn.Linear(5, 5), tmp_path / "model-best.pth.tar")
    with pytest.raises(ValueError):
        utils.load_checkpoint(None)
    with pytest.raises(FileNotFoundError):
        utils.load_checkpoint(tmp_path / "none")


UPSTREAM = """
DATALOADER:
  TRAIN_X:
    BATCH_SIZE: 32
  TEST:
    BATCH_SIZE: 100
  NUM_WORKERS: 8

INPUT:
  SIZE: (224, 224)
  INTERPOLATION: "bicubic"
  PIXEL_MEAN: [0.48145466, 0.4578275, 0.40821073]
  PIXEL_STD: [0.26862954, 0.26130258, 0.27577711]
  TRANSFORMS: ["random_resized_crop", "random_flip", "normalize"]

OPTIM:
  NAME: "sgd"
  LR: 2e-3
  MAX_EPOCH: 200
  LR_SCHEDULER: "cosine"
  WARMUP_EPOCH: 1
  WARMUP_TYPE: "constant"
  WARMUP_CONS_LR: 1e-5

TRAIN:
  PRINT_FREQ: 5

MODEL:
  BACKBONE:
    NAME: "ViT-B/16"
"""


def test_upstreams_yaml_merges_as_yacs_merges_it(tmp_path):
    (tmp_path / "vit_b16.yaml").write_text(UPSTREAM)
    ours, theirs = get_cfg_default(), get_cfg_default()
    merge_from_file(ours, tmp_path / "vit_b16.yaml")
    theirs.merge_from_file(str(tmp_path / "vit_b16.yaml"))
    assert ours.INPUT.SIZE == (224, 224) and ours.OPTIM.LR == 0.002 and ours.OPTIM.WARMUP_CONS_LR == 1e-5
    for key in ("INPUT.SIZE", "INPUT.TRANSFORMS", "INPUT.PIXEL_MEAN", "OPTIM.LR", "OPTIM.WARMUP_CONS_LR",
                "MODEL.BACKBONE.NAME", "DATALOADER.TEST.BATCH_SIZE", "TRAIN.PRINT_FREQ"):  # fmt: skip
        a, b = ours, theirs
        for part in key.split("."):
            a, b = a[part], b[part]
        assert (a, type(a)) == (b, type(b)), key


def test_text_stays_as_it_was_written(tmp_path):
    """A name that looks like a number is still that name; quotes of a literal go, as in yacs."""
    cfg = get_cfg_default()
    merge_from_list(cfg, ["MODEL.LLM", "1e5", "DATASET.NAME", "007_0", "MODEL.BACKBONE.WEIGHTS", "'a b'"])
    assert (cfg.MODEL.LLM, cfg.DATASET.NAME, cfg.MODEL.BACKBONE.WEIGHTS) == ("1e5", "007_0", "a b")
    merge_from_list(cfg, ["INPUT.TRANSFORMS", "random_flip, normalize"])
    assert cfg.INPUT.TRANSFORMS == ("random_flip", "normalize")
    (tmp_path / "c.yaml").write_text("DATASET:\n  NAME: '0x10'\nOPTIM:\n  LR: '{[]: 1}'\n")
    with pytest.raises(UserError, match=r"OPTIM.LR in .* must be a number, got '\{\[\]: 1\}'"):
        merge_from_file(cfg, tmp_path / "c.yaml")
    assert cfg.DATASET.NAME == "0x10"
