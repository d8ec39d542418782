"""Methods on frozen features give the numbers of their authors' code (tests/official/feature_peers.py)."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from yacs.config import CfgNode

from cilmp.tests.official import feature_peers
from cilmp.tests.trainers import plain_methods as plain
from cilmp.tests.trainers.test_feature_methods import items_of
from cilmp.trainers.clap import CLAP
from cilmp.trainers.cross_modal import CrossModal
from cilmp.trainers.task_res import TaskRes
from cilmp.trainers.transclip import TransCLIP, TransCLIPFS
from dassl.config import merge_from_file
from dassl.optim import build_lr_scheduler, build_optimizer
from dassl.utils.paths import REPO

EPOCHS = 6


@pytest.fixture(scope="module")
def official():
    return feature_peers.load()


@pytest.fixture(scope="module")
def data():
    return feature_peers.inputs()


class Towers:
    """A CLIP whose text tower knows the texts of two templates, "{}" and "second {}"."""

    embed_dim = feature_peers.D

    def __init__(self, data):
        first, second = data["texts"].chunk(2)
        self.text = SimpleNamespace(encode_strings=lambda texts: second if texts[0].startswith("second") else first)

    def scale(self):
        return torch.tensor(feature_peers.LOG_SCALE).exp()


def make(trainer, data, train="train", **options):
    """The learner under its published configuration, cut to EPOCHS epochs."""
    context = plain.context(train_x=items_of(data[f"{train}_labels"]), val=items_of(data["val_labels"]))
    context.cfg.TRAINER[trainer.node_name()] = CfgNode({**trainer.defaults})
    merge_from_file(context.cfg, REPO / "configs" / "trainers" / trainer.__name__ / "vit_b16.yaml")
    context.cfg.OPTIM.MAX_EPOCH = EPOCHS
    node = context.cfg.TRAINER[trainer.node_name()]
    node.update({"TEMPLATES": "{}", **options})
    return trainer.learner(node, Towers(data), plain.NAMES, context)


def near(ours, theirs, start=0.0):
    """Equal to 1e-4 of the largest number; of how far they moved, where they have a start."""
    return (ours - theirs).abs().max() <= 1e-4 * (theirs - start).abs().max()


def test_task_res(data, official):
    ours = make(TaskRes, data)
    optim, losses = ours.context.cfg.OPTIM, []
    optimizer = build_optimizer([ours.residual], optim)
    schedule = build_lr_scheduler(optimizer, optim)
    for epoch in range(EPOCHS):
        optimizer.zero_grad()
        loss, _ = ours.loss(data["train"][0], data["train_labels"])
        loss.backward()
        if epoch == 0:
            assert near(ours.residual.grad, official["taskres/gradient"])
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    assert near(torch.tensor(losses), official["taskres/losses"])
    assert near(ours.residual, official["taskres/residual"])
    assert (ours(data["test"]) - official["taskres/logits"]).abs().max() < 2e-4


@pytest.mark.parametrize("constraint, name", [("l2", "clap"), ("none", "zslp")])
def test_clap(constraint, name, data, official):
    ours = make(CLAP, data, CONSTRAINT=constraint)
    x, y = data["train"].flatten(0, 1), data["train_labels"].repeat(len(data["train"]))
    if constraint == "l2":
        assert near(ours.multipliers(x, y), official["clap/multipliers"])
    loss = F.cross_entropy(ours.logits(x), y) + ours.penalty(ours.multipliers(x, y))
    assert near(loss, official[f"{name}/losses"][0])
    ours.fit((data["train"], data["train_labels"]), None)
    assert near(ours.prototypes, official[f"{name}/prototypes"], data["text"])
    assert (ours(data["test"]) - official[f"{name}/logits"]).abs().max() < 2e-4
    assert not near(official["clap/prototypes"], official["zslp/prototypes"], data["text"])  # the constraint counts


def test_cross_modal(data, official):
    ours = make(CrossModal, data, TEMPLATES="{}; second {}", ITERATIONS=120, EVAL_EVERY=10)
    assert near(ours.zero_shot, official["crossmodal/zero_shot"])
    images = F.normalize(data["train"].flatten(0, 1), dim=-1), data["train_labels"].repeat(feature_peers.VIEWS)
    texts = ours.texts, torch.arange(feature_peers.C).repeat(2)
    held = F.normalize(data["val"], dim=-1), data["val_labels"]
    size = len(images[1]), len(texts[1])
    score, step, best = ours.train_head(images, texts, held, 1e-3, 0.01, size)
    assert score == pytest.approx(float(official["crossmodal/val"])) and step == official["crossmodal/best_step"] > 0
    assert near(best, official["crossmodal/best"], ours.zero_shot)
    *_, last = ours.train_head(images, texts, None, 1e-3, 0.01, size)
    assert near(last, official["crossmodal/last"], ours.zero_shot)
    for share, logits in ((0.0, "logits"), (0.5, "wise")):
        ours = make(CrossModal, data, TEMPLATES="{}; second {}", ITERATIONS=120, WISE_FT=share, BATCH_SIZES=(99,),
                    RATES=(1e-3,), WEIGHT_DECAYS=(0.01,))  # fmt: skip
        ours.fit((data["train"], data["train_labels"]), None)
        assert (ours(data["test"]) - official[f"crossmodal/{logits}"]).abs().max() < 2e-4


def test_transclip(data, official):
    ours = make(TransCLIP, data)
    assert near(ours(data["test"]).exp(), official["transclip/zs"])
    zero_shot = ours.score(data["test"], data["text"]).softmax(-1)
    assert (zero_shot - official["transclip/zs"]).abs().max() > 0.1


def test_transclip_with_shots(data, official):
    """RELEASED is the code as it is; without it the neighbours' rows and z are of the same images."""
    answers = {}
    for released in (True, False):
        ours = make(TransCLIPFS, data, "even", RELEASED=released)
        ours.fit((data["even"][None], data["even_labels"]), (data["val"], data["val_labels"]))
        x = F.normalize(data["test"], dim=-1)
        log_y = ours.score(x, ours.text_features).log_softmax(-1)
        answers[released] = ours.answers(x, log_y)[-1].exp()
        if released:
            right = (ours(data["test"]).argmax(-1) == data["test_labels"]).float().mean()
            assert 100 * right == pytest.approx(float(official["transclip/fs_accuracy"]))
    assert near(answers[True], official["transclip/fs"])
    assert (answers[True] - answers[False]).abs().max() > 0.01
