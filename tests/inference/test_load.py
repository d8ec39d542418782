"""`cilmp.load`: runs of every origin, images of every kind, and a line for what does not fit."""

import json
import os
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

import cilmp
from cilmp.experiments.driver import run_protocol
from cilmp.experiments.settings import Request
from cilmp.inference import images as pictures
from cilmp.inference.export import export
from cilmp.tests.experiments.test_finished import make_set
from cilmp.tests.inference.runs import finished_run
from dassl.utils.errors import MissingFile, UserError
from dassl.utils.images import read_image
from dassl.utils.io import sha256_file, write_json
from dassl.utils.paths import REPO


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return finished_run("CoOp", tmp_path_factory.mktemp("run"))


@pytest.fixture
def changed(run, tmp_path):
    """changed(file, change) -> a copy of the run in which a JSON file was changed."""

    def make(file, change):
        folder = shutil.copytree(run[0], tmp_path / "changed", dirs_exist_ok=True)
        content = json.loads((folder / file).read_text())
        change(content)
        write_json(content, folder / file)
        return folder

    return make


def test_importing_cilmp_imports_no_torch():
    import subprocess
    import sys

    code = "import cilmp, sys; assert 'torch' not in sys.modules; assert 'load' not in vars(cilmp)"
    assert subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": str(REPO)}).returncode == 0
    with pytest.raises(AttributeError):
        _ = cilmp.unload


# ---- whose run


@pytest.fixture(scope="module")
def base2new(tmp_path_factory):
    """Folder with the runs of base2new, CILMP-like in needing classes: 2SFS tells seen classes from new ones."""
    place, patch = tmp_path_factory.mktemp("b2n"), pytest.MonkeyPatch()
    patch.setenv("CILMP_CACHE", str(place / "cache"))
    make_set(place / "data")
    env = {"DATA": str(place / "data"), "BACKBONE": "demo", "EPOCHS": "1", "SHOTS": "2", "METHODS": "TwoSFS CoOp",
           "OPTS": "DATALOADER.TRAIN_X.BATCH_SIZE 4"}  # fmt: skip
    run_protocol(Request("base2new", "CoOp", "mydata", [1], env), output=place / "out")
    patch.undo()
    return place / "out"


@pytest.mark.parametrize("method", ["TwoSFS", "CoOp"])
def test_a_test_on_other_classes_takes_what_its_training_learned(base2new, method, tmp_path):
    (folder,) = base2new.glob(f"**/{method}/**/test_new")
    with np.load(folder / "predictions.npz") as found:
        paths, wanted = found["paths"].tolist(), found["probabilities"]
    model = cilmp.load(folder)
    assert model.trained_on["classes"] != model.classes
    assert np.abs(model.predict_proba(paths) - wanted).max() < 1e-5
    alone = export(folder, tmp_path / "alone")
    assert np.array_equal(cilmp.load(alone).predict_proba(paths), model.predict_proba(paths))
    trained = (alone / "README.md").read_text().partition("## Trained on")[2].partition("## Results")[0]
    assert all(f"| {name} | 2 |" in trained for name in model.trained_on["classes"])
    assert not any(f"| {name} |" in trained for name in model.classes)


def test_a_training_done_anew_is_noticed(base2new):
    (folder,) = base2new.glob("**/CoOp/**/test_new")
    source = folder.parent / "train_base" / "results.json"
    text = source.read_text()
    source.write_text(text + " ")
    with pytest.raises(UserError, match="was trained anew since"):
        cilmp.load(folder)
    source.write_text(text)


def test_a_method_of_ones_own(tmp_path):
    plugin = tmp_path / "my_method.py"
    shutil.copy(REPO / "docs" / "extending" / "my_method.py", plugin)
    from cilmp.experiments.settings import base_config

    base_config([str(plugin)])
    (tmp_path / "place").mkdir()
    run, paths, wanted = finished_run("MyMethod", tmp_path / "place", plugins=(str(plugin),))
    assert np.abs(cilmp.load(run).predict_proba(paths) - wanted).max() < 1e-5
    alone = export(run, tmp_path / "bundle")
    assert "my_method.py" not in os.listdir(alone) and str(tmp_path) not in (alone / "kept.json").read_text()
    with pytest.raises(UserError, match="whose file is not in the bundle: give it with --plugin"):
        cilmp.load(alone)
    assert np.abs(cilmp.load(alone, plugin=[plugin]).predict_proba(paths) - wanted).max() < 1e-5
    plugin.write_text(plugin.read_text() + "\n")
    with pytest.raises(UserError, match="another than the run was trained with"):
        cilmp.load(run)


TRAP = "import pathlib\npathlib.Path(__file__).with_name('ran').touch()\n"


@pytest.mark.parametrize("older", [False, True])
def test_no_code_of_another_file_runs(tmp_path, older):
    """A changed file where the run's own lay, one that is handed in: compared before it is imported."""
    source = (REPO / "docs" / "extending" / "my_method.py").read_text()
    name = f"Guarded{older}"  # both are registered in this process
    plugin, place = tmp_path / f"guarded_{older}.py", tmp_path / "place"
    plugin.write_text(source.replace("class MyMethod", f"class {name}"))
    from cilmp.experiments.settings import base_config

    base_config([str(plugin)])
    place.mkdir()
    run, paths, _ = finished_run(name, place, plugins=(str(plugin),))
    kept = json.loads((run / "kept.json").read_text())
    assert kept["plugins_sha256"] == [sha256_file(plugin)]
    if older:  # than these hashes: the method's own is known
        write_json({k: v for k, v in kept.items() if k != "plugins_sha256"}, run / "kept.json")
    other = tmp_path / "handed_in.py"
    other.write_text(TRAP + plugin.read_text())
    with pytest.raises(UserError, match=r"handed_in\.py is another than the run was trained with.*give that one"):
        cilmp.load(run, plugin=[other])
    assert not (tmp_path / "ran").exists()
    assert cilmp.load(run, plugin=plugin).predict_proba(paths[:1]).shape == (1, 3)
    plugin.unlink()
    with pytest.raises(MissingFile, match=f"no plugin file .*{plugin.name}"):
        cilmp.load(run)
    plugin.write_text(other.read_text())
    with pytest.raises(UserError, match=f"{plugin.name} is another than the run was trained with"):
        cilmp.load(run)
    assert not (tmp_path / "ran").exists()


def test_a_method_in_a_module_that_its_plugin_imports(tmp_path, monkeypatch):
    """The hash of the file that is imported counts, beside that of the file that holds the class."""
    monkeypatch.syspath_prepend(tmp_path)
    source = (REPO / "docs" / "extending" / "my_method.py").read_text().replace("class MyMethod", "class Inner")
    (tmp_path / "inner_method.py").write_text(source)
    plugin, place = tmp_path / "outer_method.py", tmp_path / "place"
    plugin.write_text("import inner_method\n")
    from cilmp.experiments.settings import base_config

    base_config([str(plugin)])
    place.mkdir()
    run, paths, _ = finished_run("Inner", place, plugins=(str(plugin), "inner_method"))
    assert cilmp.load(run).predict_proba(paths[:1]).shape == (1, 3)
    plugin.write_text(TRAP + plugin.read_text())
    with pytest.raises(UserError, match=r"outer_method\.py is another than"):
        cilmp.load(run)
    assert not (tmp_path / "ran").exists()


def test_a_reader_of_ones_own_is_not_needed(tmp_path):
    reader, place = tmp_path / "my_reader.py", tmp_path / "place"
    reader.write_text(READER)
    from cilmp.experiments.settings import base_config

    base_config([str(reader)])
    place.mkdir()
    more = {"DATASET.NAME": "NoiseReader", "DATASET.COLOUR": "grey"}
    run, paths, wanted = finished_run("TipAdapter", place, plugins=(str(reader),), **more)
    reader.unlink()
    for folder in (run, export(run, tmp_path / "bundle")):
        assert np.abs(cilmp.load(folder).predict_proba(paths) - wanted).max() < 1e-5


READER = """
import json

import numpy as np

from dassl.data.datasets import DATASET_REGISTRY, DatasetBase, Datum


@DATASET_REGISTRY.register()
class NoiseReader(DatasetBase):
    def __init__(self, cfg):
        assert cfg.DATASET.COLOUR == "grey"
        folder = f"{cfg.DATASET.ROOT}/noise"
        split = json.load(open(f"{folder}/split.json"))
        parts = {part: [Datum(f"{folder}/{path}", np.int64(label), 0, name) for path, label, name in rows]
                 for part, rows in split.items()}
        super().__init__(train_x=parts["train"], test=parts["test"])


def extend_cfg(cfg):
    cfg.DATASET.COLOUR = ""
"""


def test_a_plugins_whole_trainer(tmp_path):
    """A TrainerX that builds its model itself, as plugins of the CoOp family do."""
    plugin = tmp_path / "whole_trainer.py"
    plugin.write_text(WHOLE)
    from cilmp.experiments.settings import base_config

    base_config([str(plugin)])
    (tmp_path / "place").mkdir()
    run, paths, wanted = finished_run("WholeTrainer", tmp_path / "place", plugins=(str(plugin),))
    model = cilmp.load(run)
    assert np.abs(model.predict_proba(paths) - wanted).max() < 1e-5
    with pytest.raises(UserError, match="does not say its image features"):
        model.features(paths)


WHOLE = """
import torch
from torch import nn
from torch.nn import functional as F
from yacs.config import CfgNode

from dassl.engine import TRAINER_REGISTRY, TrainerX
from dassl.optim import build_lr_scheduler, build_optimizer


class Net(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.fixed = nn.Linear(3 * 16, 8)
        nn.init.eye_(self.fixed.weight)
        self.head = nn.Linear(8, classes)

    def forward(self, x):
        return self.head(self.fixed(F.adaptive_avg_pool2d(x, 4).flatten(1)))


@TRAINER_REGISTRY.register()
class WholeTrainer(TrainerX):
    def build_model(self):
        self.model = Net(len(self.dm.dataset.classnames)).to(self.device)
        self.optim = build_optimizer(self.model.head, self.cfg.OPTIM)
        self.sched = build_lr_scheduler(self.optim, self.cfg.OPTIM)
        self.model.fixed.bias.data.zero_()
        self.register_model("head", self.model.head, self.optim, self.sched)

    def forward_backward(self, batch):
        images, labels, *_ = self.parse_batch_train(batch)
        loss = F.cross_entropy(self.model(images), labels)
        self.model_backward_and_update(loss)
        return {"loss": loss.item()}


def extend_cfg(cfg):
    cfg.TRAINER.WHOLETRAINER = CfgNode()
"""


# ---- what does not fit


def test_other_weights_on_this_machine(changed):
    folder = changed("results.json", lambda r: r["reads"].update(weights="0" * 64))
    with pytest.raises(UserError, match=r"not those the run was trained on \(000000000000\): give their file"):
        cilmp.load(folder)


def test_weights_that_lie_elsewhere(run, tmp_path):
    """Read from where they are said to be; other ones are refused."""
    shutil.copy(REPO / "backbones" / "demo" / "model.safetensors", tmp_path / "moved.safetensors")
    found = cilmp.load(run[0], weights=tmp_path / "moved.safetensors").predict_proba(run[1])
    assert np.abs(found - run[2]).max() < 1e-5
    with pytest.raises(UserError, match="no such checkpoint"):
        cilmp.load(run[0], weights=tmp_path / "gone.safetensors")


@pytest.mark.parametrize("file, change, said", [
    ("results.json", lambda r: r.update(schema=3), "of another version of the toolbox .results of schema 3"),
    ("results.json", lambda r: r["spec"]["settings"].update({"OPTIM.WINGS": 2}), "of another version of the toolbox"),
    ("kept.json", lambda k: k.update(form=9), "of another version of the toolbox .form 9"),
    ("results.json", lambda r: r["spec"].update(method="Gone"), "unknown trainer 'Gone'"),
])  # fmt: skip
def test_another_version(changed, file, change, said):
    with pytest.raises(UserError, match=said) as error:
        cilmp.load(changed(file, change))
    assert "\n" not in str(error.value)


def test_what_is_missing_or_damaged(run, tmp_path):
    folder = shutil.copytree(run[0], tmp_path / "copy")
    learner = folder / "prompt_learner" / "learner.safetensors"
    learner.write_bytes(learner.read_bytes()[:-9])
    with pytest.raises(UserError, match=r"learner\.safetensors can't be read as safetensors"):
        cilmp.load(folder)
    learner.unlink()
    with pytest.raises(UserError, match="no learned tensors"):
        cilmp.load(folder)
    (folder / "kept.json").unlink()
    with pytest.raises(UserError, match="trained by an older version of the toolbox"):
        cilmp.load(folder)
    (folder / "results.json").unlink()
    with pytest.raises(UserError, match="has not finished"):
        cilmp.load(folder)


# ---- images


def test_one_image_in_every_form(run):
    model, path = cilmp.load(run[0]), run[1][0]
    pixels = np.asarray(read_image(path))
    tensor = torch.from_numpy(pixels.copy()).permute(2, 0, 1)
    forms = [path, [path], Image.open(path), pixels, pixels[None], tensor, tensor[None], [tensor.double() / 255],
             np.dstack([pixels, np.full(pixels.shape[:2], 255, np.uint8)])]  # fmt: skip
    wanted = model.predict_proba([path])
    for form in forms:
        assert np.array_equal(model.predict_proba(form), wanted), type(form)
    assert model.predict(path).tolist() == [model.classes[wanted.argmax()]]


def test_grey_levels_are_windowed_as_those_of_files(tmp_path):
    deep = (np.arange(400, dtype=np.uint16).reshape(20, 20) * 100)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    wanted = np.asarray(read_image(str(tmp_path / "deep.png")))
    assert np.array_equal(np.asarray(pictures.picture(deep)), wanted)
    assert np.asarray(pictures.picture(deep > 9)).max() == 255


@pytest.mark.parametrize("array, said", [
    (np.zeros((4, 4, 5), np.uint8), "is no image"), (np.zeros((0, 4), np.uint8), "empty"),
    (np.full((4, 4), np.nan), "not finite"), (np.full((4, 4, 3), 7.0), "floats 0..1"),
    (np.full((4, 4, 3), -0.5), "model.logits"), (np.zeros((4, 4, 3), np.int64) + 300, "floats 0..1"),
])  # fmt: skip
def test_arrays_that_are_no_images(array, said):
    with pytest.raises(UserError, match=said):
        pictures.picture(array)


def test_no_image_and_a_folder(run, tmp_path):
    model = cilmp.load(run[0])
    with pytest.raises(UserError, match="no image was given"):
        model.predict([])
    with pytest.raises(UserError, match="is a folder"):
        model.predict([tmp_path])


def test_batches_and_logits(run):
    """However many at once, and with gradients of the pixels where the caller asks for them."""
    model, (_, paths, _) = cilmp.load(run[0]), run
    assert np.allclose(model.predict_proba(paths, batch_size=1), model.predict_proba(paths), atol=1e-6)
    (batch,) = model.read(paths)
    assert batch.shape[0] == len(paths) and batch.dtype == torch.float32
    with torch.no_grad():
        own = model.logits(batch).softmax(-1).cpu()
        assert torch.allclose(own, torch.from_numpy(model.predict_proba(paths)), atol=1e-6)
        logits, features = model.answers(batch)
    assert torch.equal(logits, model.logits(batch))
    assert torch.allclose(features, model.image_features(batch), atol=1e-6)
    batch.requires_grad_(True)
    model.logits(batch).max().backward()
    assert batch.grad.abs().sum() > 0


def test_an_image_is_skipped_where_that_is_asked(run):
    seen = []
    places, logits, _ = cilmp.load(run[0]).outputs(["gone.png", *run[1]], on_bad=lambda i, e: seen.append((i, str(e))))
    assert places == [1, 2, 3] and len(logits) == 3 and seen[0][0] == 0 and "gone.png" in seen[0][1]


def test_a_run_of_somebodys_checkout(changed):
    folder = changed("results.json", lambda r: r["spec"]["settings"].update({"RUN.CHECKOUT": "CoOp"}))
    (folder / "kept.json").unlink()
    with pytest.raises(UserError, match="of a method of somebody's checkout"):
        cilmp.load(folder)
