"""Commands as users type them, in processes of their own: the client's variables are read when it is imported."""

import json
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file

from cilmp.backbones.registry import ROWS
from cilmp.tests.backbones.small_models import CONFIGS, original
from cilmp.tests.hub import repositories
from cilmp.tests.hub.conftest import command_environment
from cilmp.tests.hub.server import TOKEN
from dassl.utils import sha256_file, sha256_of
from dassl.utils.paths import REPO

HUGE = ("MetaCLIP2",)  # 1.9 billion weights: run small, in test_backbones.py
CLASSES = ("cat", "tawny owl")


@pytest.fixture
def small_repository(hub, tmp_path):
    """owner/small: a small model as open_clip pushes it."""
    folder = tmp_path / "small"
    folder.mkdir()
    model = original("openai")
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / "open_clip_model.safetensors")
    repositories.write(folder / "open_clip_config.json", {"model_cfg": CONFIGS["openai"], "preprocess_cfg": {}})
    return hub.add("owner/small", folder)


def python(code, environment):
    call = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(REPO)!r}); import cilmp\n{code}"]
    done = subprocess.run(call, env=environment, cwd=environment["HOME"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.strip().splitlines()[-1]


def train(home, environment, *words):
    call = [sys.executable, str(REPO / "train.py"), *words]
    return subprocess.run(call, cwd=home, env=environment, capture_output=True, text=True, timeout=3600)


def one_step(home, data, backbone, trainer="CoOp", llm="", *pairs):
    return (
        "--trainer", trainer, "--dataset", "tiny", "--root", str(data), "--backbone", backbone, "--seed", "1",
        "--output-dir", str(home / "run"), *(("--llm", llm) if llm else ()), "DATASET.NUM_SHOTS", "1",
        "OPTIM.MAX_EPOCH", "1", "DATALOADER.NUM_WORKERS", "0", *pairs,
    )  # fmt: skip


def test_a_mirror_then_no_network(hub, small_repository, tmp_path):
    """HF_ENDPOINT and HF_HUB_OFFLINE as the client reads them; the second process asks nothing."""
    code = "from cilmp import backbones; print(backbones.load('hf-hub:owner/small').weights_hash)"
    first = python(code, command_environment(hub, tmp_path))
    asked = len(hub.requests)
    again = python(code, command_environment(hub, tmp_path, HF_HUB_OFFLINE="1", HF_ENDPOINT="http://127.0.0.1:9"))
    assert again == first and asked == len(hub.requests) > 0


@pytest.mark.slow
def test_lines_of_the_command(hub, small_repository, tmp_path, tiny_split_dataset):
    small_repository.gated = True
    words = one_step(tmp_path, tiny_split_dataset(classes=CLASSES), "hf-hub:owner/small")
    for more, word in (({}, "gated"), ({"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE"), ({"HF_ENDPOINT": hub.cdn}, hub.cdn)):
        done = train(tmp_path, command_environment(hub, tmp_path, **more), *words)
        last = done.stderr.strip().splitlines()[-1]
        assert done.returncode == 2 and last.startswith("error: ") and word in last, done.stderr
        assert "Traceback" not in done.stderr
    done = train(tmp_path, command_environment(hub, tmp_path, HF_TOKEN=TOKEN), *words)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in repositories.NAMES if n not in HUGE])
def test_every_name_at_its_size(name, hub, tmp_path, tiny_split_dataset):
    """A run of one step, weights cut on the way and compared; then all is built again without a network."""
    weights = repositories.stock(hub, tmp_path / "repositories", name)
    rows = tmp_path / "rows.safetensors"
    save_file({c: torch.randn(8, 64) for c in CLASSES}, rows)
    trainer = "CoOp" if "no visual prompts" in ROWS[name].about else "CILMP"
    words = one_step(tmp_path, tiny_split_dataset(classes=CLASSES), name, trainer, str(rows))
    with hub.fault("cut", times=1, at=50_000_000):
        done = train(tmp_path, command_environment(hub, tmp_path), *words)
    assert done.returncode == 0, done.stderr[-3000:]
    ranges = [r.range for r in hub.requests if r.host == "cdn" and r.range]
    assert len(ranges) == 1 and int(ranges[0].removeprefix("bytes=").rstrip("-")) >= 40_000_000
    (content,) = (json.loads(p.read_text()) for p in tmp_path.glob("run/**/results.json"))
    parts = ROWS[name].hub[1] if ROWS[name].layout == "pmc_clip" else list(weights)
    digests = [sha256_file(weights[p]) for p in parts]
    wanted = digests[0] if len(digests) == 1 else sha256_of(digests)
    assert wanted in json.dumps(content)
    asked = len(hub.requests)
    shutil.rmtree(tmp_path / "run")
    again = train(tmp_path, command_environment(hub, tmp_path, HF_HUB_OFFLINE="1"), "--no-train", *words)
    assert again.returncode == 0 and len(hub.requests) == asked, again.stderr[-3000:]
    shutil.rmtree(tmp_path / "repositories")
    shutil.rmtree(tmp_path / "hf")


OWN_CLIENTS = """
import json, torch, open_clip
from cilmp import backbones
name = "hf-hub:{repository}"
ours = backbones.load(name)
print("asked by us", flush=True)
theirs = open_clip.create_model(name, cache_dir={cache!r}).eval()
words = open_clip.get_tokenizer(name, cache_dir={cache!r})
texts, images = ["a photo of a cell.", "benign"], torch.randn(2, 3, ours.image_size, ours.image_size)
with torch.no_grad():
    ids = words(texts)
    pairs = [(ours.text.encode_strings(texts), theirs.encode_text(ids)),
             (ours.image.encode(images), theirs.encode_image(images))]
print(json.dumps([float((a - b).norm() / b.norm()) for a, b in pairs]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ViT-B/32", "RN50", "BiomedCLIP", "SigLIP", "SigLIP2", "QuiltNet-B-32", "DermLIP"])
def test_open_clip_fetches_the_same(name, hub, tmp_path):
    """open_clip's and transformers' own clients, from the same hub into a cache of their own: the same features."""
    repositories.stock(hub, tmp_path / "repositories", name)
    code = OWN_CLIENTS.format(repository=repositories.place_of(name)[0], cache=str(tmp_path / "theirs"))
    differences = json.loads(python(code, command_environment(hub, tmp_path)))
    assert max(differences) < 1e-4
    libraries = {part.split("/")[0] for r in hub.requests for part in r.agent.split("; ")}
    assert "open_clip" in libraries and (name in ("ViT-B/32", "RN50", "QuiltNet-B-32", "DermLIP")
                                         or "transformers" in libraries)  # fmt: skip
    shutil.rmtree(tmp_path / "repositories")
    shutil.rmtree(tmp_path / "theirs")


@pytest.mark.slow
def test_transformers_fetches_the_same_llm(hub, tmp_path):
    hub.add("meta-llama/Meta-Llama-3-8B-Instruct", repositories.llama(tmp_path / "llama"), gated=True)
    code = """
import torch, transformers
from cilmp.knowledge import language_model, llms
name = "meta-llama/Meta-Llama-3-8B-Instruct"
ours = language_model.LanguageModel(name, llms.find(name))
theirs = transformers.AutoModelForCausalLM.from_pretrained(name, cache_dir="theirs")
words = transformers.AutoTokenizer.from_pretrained(name, cache_dir="theirs")
ids = words.apply_chat_template([{"role": "user", "content": "a cell"}], add_generation_prompt=True, return_dict=False)
same = all(torch.equal(a, b) for a, b in zip(ours.model.state_dict().values(), theirs.state_dict().values()))
print(same and ids == ours.prompt("a cell"))
"""
    assert python(code, command_environment(hub, tmp_path, HF_TOKEN=TOKEN)) == "True"
    assert any("transformers/" in r.agent for r in hub.requests)
