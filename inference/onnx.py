"""A run as one ONNX file: pixels in, probabilities out, for any number of images at once.

    pixels          (B, 3, H, W) float32, RGB from 0 to 1, of the size and cut that the file's metadata say
    probabilities   (B, C) float32, classes in the order of the metadata

What does not depend on the image - class texts, where a method has them - is in the file as numbers; a text branch that
does depend on it (CILMP, CoCoOp) is in the file as a graph. Nothing is written that does not answer as the run does.
"""

import contextlib
import importlib.util
import json
import logging
import warnings
from pathlib import Path

import torch
from torch import nn

from cilmp.trainers.precision import in_towers
from dassl.utils.errors import ConfigError, UserError
from dassl.utils.io import atomic_path
from dassl.utils.version import number

NAME = "model.onnx"  # in a bundle
NEEDS = ("onnx", "onnxscript", "onnxruntime")
LARGEST = 64  # images at once that the graph is declared, and made, for
EXAMPLE = 3  # images it is traced with: neither 0 nor 1, whose sizes a tracer takes for facts
CHECKED = (1, EXAMPLE)  # numbers of images whose probabilities are compared before the file is written
TOLERANCE = 1e-4  # of probabilities
NOISY = ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")  # their loggers, which speak of every folded constant


def export(model, path):
    """Write `path`, a run as an ONNX file.

    Args:
        model: Model on the CPU.

    Raises:
        ConfigError: packages that are missing, a method whose answers are not a function of the image.
        UserError: a graph that gives other probabilities than the run; nothing is written.
    """
    check(model)
    graph = Graph(model).eval()
    with _float32(model), torch.no_grad(), atomic_path(path) as temporary:
        _write(graph, metadata(model), temporary)
        if (worst := difference(graph, temporary)) > TOLERANCE:
            raise UserError(f"{path} was not written: its probabilities differ from the run's by {worst:.1e} (at most "
                            f"{TOLERANCE:g}); please report method, backbone and the versions of torch and "
                            f"onnxruntime")  # fmt: skip
    return Path(path)


def check(model):
    """ConfigError unless the run can be exported here."""
    if missing := [name for name in NEEDS if importlib.util.find_spec(name) is None]:
        raise ConfigError(f"ONNX needs {', '.join(missing)}: pip install 'cilmp[onnx]'")
    if model.transductive:
        raise ConfigError(f"{model.method} answers all images of a call together, so there is no function of one image "
                          f"that could be exported; any method without a dagger in the tables can")  # fmt: skip
    if not hasattr(model.trainer.model, "logits"):
        raise ConfigError(f"{model.method} is no method of the toolbox's own kind: it has no learner to export")
    if "instance_norm" in model.trainer.cfg.INPUT.TRANSFORMS:
        raise ConfigError("INPUT.TRANSFORMS instance_norm is not part of what is exported: train without it")
    if model.device.type != "cpu":
        raise ConfigError(f'ONNX files are made on the CPU, this run is on {model.device}: load it with device="cpu"')


def metadata(model):
    """{name: text} that the file carries: what goes in, and what comes out."""
    given, clip = model.trainer.cfg.INPUT, model.trainer.clip
    return {
        "classes": json.dumps(model.classes, ensure_ascii=False),
        "method": model.method,
        "dataset": model.spec["dataset"],
        "backbone": clip.name,
        "input": json.dumps({"size": list(given.SIZE), "resize": given.RESIZE_MODE,
                             "interpolation": given.INTERPOLATION, "range": [0, 1]}),
        "cilmp": number(),
    }  # fmt: skip


class Graph(nn.Module):
    """Pixels (B, 3, H, W) from 0 to 1 -> probabilities (B, C). Normalising is inside."""

    def __init__(self, model):
        super().__init__()
        given = model.trainer.cfg.INPUT
        self.learner, self.clip = model.trainer.model, model.trainer.clip
        plain = given.NO_NORMALIZE
        for name, values in (("pixel_mean", [0.0] * 3 if plain else given.PIXEL_MEAN),
                             ("pixel_std", [1.0] * 3 if plain else given.PIXEL_STD)):  # fmt: skip
            self.register_buffer(name, torch.tensor(list(values))[:, None, None])
        self.size = tuple(given.SIZE)

    def forward(self, pixels):
        return self.learner((pixels - self.pixel_mean) / self.pixel_std).float().softmax(-1)

    def example(self, count, seed=0):
        """Pixels (count, 3, H, W)."""
        return torch.rand(count, 3, *self.size, generator=torch.Generator().manual_seed(seed))


@contextlib.contextmanager
def _float32(model):
    """The towers in float32 while they are traced, whatever the run used."""
    clip, before = model.trainer.clip, model.trainer.precision
    in_towers(clip, "fp32")
    model.trainer.model.eval()  # forgets texts in another precision
    try:
        yield
    finally:
        in_towers(clip, before)
        model.trainer.model.eval()


@contextlib.contextmanager
def _quiet():
    loggers = [logging.getLogger(name) for name in NOISY]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels):
                logger.setLevel(level)


def _write(graph, facts, path):
    pixels = graph.example(EXAMPLE)
    graph(pixels)  # what is computed once for all images is a number by now, not a part of the graph
    batch = {0: torch.export.Dim("batch", min=1, max=LARGEST)}
    with _quiet():
        traced = torch.export.export(graph, (pixels,), dynamic_shapes=(batch,), strict=False)
        program = torch.onnx.export(traced, dynamo=True, verbose=False, input_names=["pixels"],
                                    output_names=["probabilities"])  # fmt: skip
    strip(program.model)
    program.model.metadata_props.update(facts)
    program.save(path)


def strip(graph):
    """Take out what tracing noted on every node: stack traces, longer than a small model's weights, with the folders of
    this machine in them."""
    for node in graph.graph.all_nodes():
        for part in (node, *node.outputs):
            part.metadata_props.clear()
            part.doc_string = None


def session(path):
    """An onnxruntime session on the CPU, with as many threads as torch has."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = torch.get_num_threads(), 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def answers(runner, pixels):
    """Probabilities (B, C) that a session gives."""
    return torch.from_numpy(runner.run(None, {"pixels": pixels.numpy()})[0])


@torch.no_grad()
def difference(graph, path, counts=CHECKED):
    """Largest difference between the file's probabilities and the graph's, for some numbers of random images."""
    runner = session(path)
    batches = [graph.example(n, seed=n) for n in counts]
    return max(float((answers(runner, x) - graph(x)).abs().max()) for x in batches)
