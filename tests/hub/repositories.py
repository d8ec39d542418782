"""Repositories as they lie on the hub, with random weights: every named backbone, a Llama-3, one that brings code.

    stock(hub, folder, "BiomedCLIP")      all repositories that a name of the registry needs, at its true size
    small(monkeypatch)                    first: every name shrunk to towers of width 32 or 48

A new name in the registry needs a row in LAYOUTS only where its file is no open_clip repository.
"""

import copy
import json

import open_clip
import torch
from safetensors.torch import save_file

from cilmp.backbones import recipes
from cilmp.backbones.factory import build
from cilmp.backbones.registry import BIOMED_BERT, ROWS
from cilmp.backbones.tokens import SPECIAL, kind_of
from cilmp.tests.backbones import small_models

NAMES = sorted(name for name, row in ROWS.items() if not row.folder)  # all that are fetched
VOCABULARY = 2000
CHAT = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n"
    "{{ m['content'] | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)


# ---- weights


def state_of(recipe):
    """Random weights of the architecture, in half precision as most files hold them, and its logit scale."""
    model = build(recipe.config, recipe.bert, seed=1)
    state = {k: v.half() if v.is_floating_point() else v for k, v in model.state_dict().items()}
    return {k: v.clone().contiguous() for k, v in state.items()}


def open_clip_repository(recipe, state, folder, files):
    """What open_clip pushes: configuration, weights as safetensors (and as a pickle, where that is what there is)."""
    facts = {"mean": recipe.mean, "std": recipe.std, "interpolation": recipe.interpolation}
    write(folder / "open_clip_config.json", {"model_cfg": recipe.config, "preprocess_cfg": facts})
    if not files or any(f.endswith(".safetensors") for f in files):
        save_file(state, folder / (files[0] if files else "open_clip_model.safetensors"))
    else:
        torch.save(state, folder / files[0])


def state_dict_in_training(recipe, state, folder, files):
    """A training checkpoint of PyTorch: the state below `state_dict`, its numbers beside it (PubMedCLIP)."""
    torch.save({"epoch": 50, "state_dict": state}, folder / files[0])


def trained_in_parallel(recipe, state, folder, files):
    """The same from several GPUs, with UniMed-CLIP's name of the text tower."""
    renamed = {f"module.{'text_encoder.' + k[5:] if k.startswith('text.') else k}": v for k, v in state.items()}
    torch.save({"epoch": 10, "name": "unimed", "state_dict": renamed}, folder / files[0])


def three_files(recipe, state, folder, files):
    """PMC-CLIP's image tower, text tower and projection, the last a bare tensor."""
    for file, prefix in zip(files, ("visual.", "text.transformer.")):
        torch.save({k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}, folder / file)
    torch.save(state["text.proj.weight"].T.contiguous(), folder / files[2])


LAYOUTS = {"PubMedCLIP": state_dict_in_training, "UniMedCLIP": trained_in_parallel, "PMC-CLIP": three_files}


# ---- tokenizers


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2), encoding="utf-8")


def syllables(count):
    """That many different letter groups: single letters first, so that every word can be spelled."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    pairs = [a + b for a in letters for b in letters] + [a + b + c for a in letters for b in letters for c in letters]
    return [*letters, *pairs, *(p + q for p in pairs for q in letters)][:count]


def bert_words(folder, size):
    """BiomedBERT's files: configuration, a vocabulary of `size` lines, no tokenizer.json."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", ",", "-", "(", ")"]
    half = (size - len(words)) // 2
    words += syllables(half) + [f"##{s}" for s in syllables(size - len(words) - half)]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    write(folder / "tokenizer_config.json", {"do_lower_case": True, "model_max_length": 512})
    fields = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072}
    write(folder / "config.json", {"model_type": "bert", "architectures": ["BertForMaskedLM"], **fields,
                                   "vocab_size": size, "max_position_embeddings": 512, "pad_token_id": 0,
                                   "type_vocab_size": 2})  # fmt: skip


def sentence_pieces(folder, size, pad, start, end):
    """tokenizer.json of a unigram vocabulary with the ids of padding, start (or None) and end."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    names = {i: f"<filler{i}>" for i in range(4)} | {pad: "<pad>", end: "</s>"}
    names |= {} if start is None else {start: "<s>"}
    special = [names[i] for i in range(4)]
    pieces = [*special, "<unk>", "▁", *syllables(size - len(special) - 2)]
    words = Tokenizer(models.Unigram([(p, -10.0 + min(len(p), 4)) for p in pieces], unk_id=len(special)))
    words.pre_tokenizer = pre_tokenizers.Metaspace()
    words.post_processor = processors.TemplateProcessing(
        single=f"{'' if start is None else '<s> '}$A </s>",
        special_tokens=[(t, words.token_to_id(t)) for t in ("<s>", "</s>") if t in special],
    )
    folder.mkdir(parents=True, exist_ok=True)
    words.save(str(folder / "tokenizer.json"))
    about = {"eos_token": "</s>", "pad_token": names[pad], "unk_token": "<unk>"}
    about |= {"bos_token": "<s>"} if start is not None else {}
    write(folder / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", **about})
    write(folder / "special_tokens_map.json", about)


def words_of(text, size, folder):
    """The tokenizer files of the repository that a text tower's configuration names."""
    if text["hf_tokenizer_name"] == BIOMED_BERT:
        return bert_words(folder, size)
    return sentence_pieces(folder, size, *SPECIAL[kind_of(text)])


# ---- whole repositories


def place_of(name):
    """(repository, files) that a name's weights come from; no files: open_clip's own names."""
    row = ROWS[name]
    if row.hub:
        return row.hub
    repository, file = open_clip.get_pretrained_cfg(row.arch, row.tag)["hf_hub"].rsplit("/", 1)
    return repository, ([file] if file else [])


def stock(hub, folder, name):
    """Serve all repositories of a named backbone; {file name: path} of its weights."""
    recipe = recipes.resolve(name, "random")  # without asking for a configuration that is not served yet
    repository, files = place_of(name)
    place = folder / repository.replace(":", "_")
    if not place.exists():
        place.mkdir(parents=True)
        LAYOUTS.get(name, open_clip_repository)(recipe, state_of(recipe), place, files)
    hub.add(repository, place)
    text = recipe.config["text_cfg"]
    if source := text.get("hf_tokenizer_name"):
        size = (recipe.bert or text)["vocab_size"]
        words_of(text, size, folder / source)
        hub.add(source, folder / source)
    weights = [p for p in place.iterdir() if p.suffix in (".safetensors", ".bin", ".pth", ".pt")]
    return {p.name: p for p in weights}


def shrunk(config):
    """An open_clip configuration of the same family, with the towers of tests/backbones/small_models.py."""
    config, text, vision = copy.deepcopy(config), config["text_cfg"], config["vision_cfg"]
    config["embed_dim"] = 48
    if "hf_model_name" not in text:
        config["text_cfg"] = {**text, "width": 32, "heads": 2, "layers": 2}
        if text.get("hf_tokenizer_name"):
            config["text_cfg"]["vocab_size"] = VOCABULARY
    if "timm_model_name" in vision:
        trunk = "small_vit_map" if vision.get("timm_pool") == "map" else "small_vit_token"
        config["vision_cfg"] = {**vision, "timm_model_name": trunk, "image_size": 32}
    elif isinstance(vision["layers"], list):
        config["vision_cfg"] = {**vision, "layers": [1, 1, 1, 1], "width": 8, "head_width": 64, "image_size": 64}
    else:
        small = {"layers": 2, "width": 48, "head_width": 16, "patch_size": 8, "image_size": 32}
        config["vision_cfg"] = {**vision, **small}
    return config


def small(monkeypatch):
    """Every named backbone at a size for tests, on both sides of the wire."""
    configs = open_clip.factory._MODEL_CONFIGS
    bert = {**small_models.BERT, "vocab_size": VOCABULARY, "max_position_embeddings": 512}
    monkeypatch.setattr(recipes, "BERT_BASE", bert, raising=False)
    for name, row in ROWS.items():
        if isinstance(row.arch, str):
            config = open_clip.get_model_config(row.arch)
            if config["embed_dim"] != 48:
                monkeypatch.setitem(configs, row.arch, shrunk(config))
        elif row.arch:
            fields = {**row.__dict__, "arch": shrunk(row.arch), "bert": row.bert and bert}
            monkeypatch.setitem(ROWS, name, type(row)(**fields))


# ---- language models


def llama(folder, chat=True, layers=3, width=64, code=False):
    """A Llama-3 as Meta's repositories hold it: byte pairs, header tokens, shards with an index, `original/`.

    code: the tokenizer is a class in a Python file of the repository.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    special = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    words = Tokenizer(models.BPE())
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    words.train_from_iterator(["In an image, describe the distinctive visual features of a round cell."], trainer)
    words.add_special_tokens(special)
    begin = words.token_to_id(special[0])
    template = processors.TemplateProcessing(single=f"{special[0]} $A", special_tokens=[(special[0], begin)])
    words.post_processor = template
    end = special[4] if chat else special[1]
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, bos_token=special[0], eos_token=end)
    tokenizer.chat_template = CHAT if chat else None
    ends = [words.token_to_id(t) for t in ((special[1], special[4]) if chat else special[1:2])]
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(
        vocab_size=words.get_vocab_size(), hidden_size=width, intermediate_size=2 * width, num_hidden_layers=layers,
        num_attention_heads=4, num_key_value_heads=2, bos_token_id=begin, eos_token_id=ends, rope_theta=500000.0,
        initializer_range=0.5, tie_word_embeddings=False))  # fmt: skip
    with torch.no_grad():
        model.lm_head.weight[-5:] = 0  # special tokens are never the likeliest
    model.save_pretrained(folder, max_shard_size="150KB")
    tokenizer.save_pretrained(folder)
    write(folder / "original" / "params.json", {"dim": width})
    (folder / "original" / "consolidated.00.pth").write_bytes(b"\0" * (1 << 20))
    if code:
        bring_code(folder)
    return folder


def bring_code(folder):
    """A tokenizer that is a class in a file of the repository; running it leaves a trace."""
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config.update(tokenizer_class="OwnTokenizer", auto_map={"AutoTokenizer": [None, "own.OwnTokenizer"]})
    write(folder / "tokenizer_config.json", config)
    about = json.loads((folder / "config.json").read_text())
    write(folder / "config.json", about | {"model_type": "own", "auto_map": {"AutoConfig": "own.OwnConfig"}})
    trace = folder.parent / "ran"
    (folder / "own.py").write_text(f"open({str(trace)!r}, 'w').close()\n"
                                   "from transformers import PretrainedConfig, PreTrainedTokenizerFast\n"
                                   "class OwnConfig(PretrainedConfig):\n    model_type = 'own'\n"
                                   "class OwnTokenizer(PreTrainedTokenizerFast):\n    pass\n")  # fmt: skip
    return trace
