"""The public names of Dassl that repositories of the CoOp family import, each where they import it from."""

import importlib

import pytest
import torch
from torch import nn

USED = {
    "dassl.config": "clean_cfg get_cfg_default",
    "dassl.data": "DataManager DatasetWrapper",
    "dassl.data.data_manager": "DataManager DatasetWrapper build_data_loader build_dataset build_sampler "
                               "build_transform",
    "dassl.data.datasets": "DATASET_REGISTRY DatasetBase Datum build_dataset",
    "dassl.data.datasets.base_dataset": "DatasetBase Datum",
    "dassl.data.datasets.build": "DATASET_REGISTRY build_dataset",
    "dassl.data.samplers": "RandomClassSampler RandomDomainSampler SeqDomainSampler build_sampler",
    "dassl.data.transforms": "INTERPOLATION_MODES build_transform",
    "dassl.data.transforms.transforms": "AVAI_CHOICES Cutout INTERPOLATION_MODES InstanceNormalization build_transform",
    "dassl.engine": "SimpleTrainer TRAINER_REGISTRY TrainerBase TrainerX build_trainer",
    "dassl.engine.build": "TRAINER_REGISTRY build_trainer",
    "dassl.engine.trainer": "SimpleTrainer TrainerBase TrainerX",
    "dassl.evaluation": "Classification EVALUATOR_REGISTRY EvaluatorBase build_evaluator",
    "dassl.evaluation.build": "EVALUATOR_REGISTRY build_evaluator",
    "dassl.evaluation.evaluator": "Classification EvaluatorBase",
    "dassl.metrics": "compute_accuracy compute_distance_matrix cosine_distance euclidean_squared_distance",
    "dassl.metrics.accuracy": "compute_accuracy",
    "dassl.metrics.distance": "compute_distance_matrix cosine_distance euclidean_squared_distance",
    "dassl.optim": "build_lr_scheduler build_optimizer",
    "dassl.optim.lr_scheduler": "ConstantWarmupScheduler LinearWarmupScheduler build_lr_scheduler",
    "dassl.optim.optimizer": "build_optimizer",
    "dassl.utils": "AverageMeter Logger MetricMeter Registry check_availability check_isfile collect_env_info "
                   "count_num_param download_url get_most_similar_str_to_a_from_b init_network_weights "
                   "listdir_nohidden load_checkpoint load_pretrained_weights mkdir_if_missing open_all_layers "
                   "open_specified_layers read_image read_json resume_from_checkpoint save_checkpoint "
                   "set_random_seed setup_logger tolist_if_not write_json",
    "dassl.utils.logger": "Logger setup_logger",
    "dassl.utils.meters": "AverageMeter MetricMeter",
    "dassl.utils.registry": "Registry",
    "dassl.utils.tools": "check_availability check_isfile collect_env_info download_url "
                         "get_most_similar_str_to_a_from_b listdir_nohidden mkdir_if_missing read_image read_json "
                         "set_random_seed tolist_if_not write_json",
    "dassl.utils.torchtools": "count_num_param init_network_weights load_checkpoint load_pretrained_weights "
                              "open_all_layers open_specified_layers resume_from_checkpoint save_checkpoint "
                              "set_bn_to_eval",
}  # fmt: skip


@pytest.mark.parametrize(("module", "name"), [(m, n) for m, names in USED.items() for n in names.split()])
def test_a_name_is_where_upstream_has_it(module, name):
    assert getattr(importlib.import_module(module), name)


def test_one_object_under_both_of_its_places():
    from dassl.data import datasets
    from dassl.evaluation import EVALUATOR_REGISTRY, build
    from dassl.utils import read_image, tools

    assert datasets.build.DATASET_REGISTRY is datasets.DATASET_REGISTRY
    assert build.EVALUATOR_REGISTRY is EVALUATOR_REGISTRY and tools.read_image is read_image


@pytest.mark.parametrize(
    "line",
    ["from dassl.engine import TrainerXU", "from dassl.engine.trainer import SimpleNet", "import dassl.modeling",
     "from dassl.modeling.ops.utils import sharpen_prob", "from dassl.engine.dg import Vanilla",
     "from dassl.engine.ssl import FixMatch"],
)  # fmt: skip
def test_what_is_left_out_says_so(line):
    with pytest.raises(ImportError, match="is left out of this dassl: it trains on labelled images") as error:
        exec(line, {})
    assert "\n" not in str(error.value)


def test_a_misspelt_name_is_still_a_plain_import_error():
    with pytest.raises(ImportError, match="cannot import name 'TrainerY'"):
        exec("from dassl.engine import TrainerY", {})
    import dassl.engine

    assert not hasattr(dassl.engine, "TrainerY")


def test_distances():
    from dassl.metrics import compute_distance_matrix, cosine_distance

    a, b = torch.tensor([[3.0, 4.0], [0.0, 2.0]]), torch.tensor([[3.0, 4.0], [4.0, -3.0], [0.0, 1.0]])
    assert torch.allclose(compute_distance_matrix(a, b), torch.tensor([[0.0, 50.0, 18.0], [13.0, 41.0, 1.0]]))
    assert torch.allclose(cosine_distance(a, b), torch.tensor([[0.0, 1.0, 0.2], [0.2, 1.6, 0.0]]), atol=1e-6)
    assert torch.equal(compute_distance_matrix(a, b, metric="cosine"), cosine_distance(a, b))
    with pytest.raises(ValueError, match=r"unknown metric 'cosin' - did you mean 'cosine'"):
        compute_distance_matrix(a, b, metric="cosin")


def test_batch_norms_to_eval():
    from dassl.utils.torchtools import set_bn_to_eval

    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Dropout())
    model.train().apply(set_bn_to_eval)
    assert [m.training for m in model] == [True, False, True]
    assert all(p.requires_grad for p in model.parameters())


def test_a_layer_that_is_not_there_is_not_opened_in_silence():
    """Before: nothing at all was left to train."""
    from dassl.utils import open_specified_layers

    model = nn.ModuleDict({"stem": nn.Linear(2, 2), "head": nn.Linear(2, 2)})
    with pytest.raises(ValueError, match=r"unknown layer 'heads' - did you mean 'head'"):
        open_specified_layers(model, "heads")
    assert all(p.requires_grad for p in model.parameters())
