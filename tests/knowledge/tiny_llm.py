"""A random Llama of 3 layers and width 16 with a word tokenizer, saved as a folder or built in memory."""

import torch

CHAT = ("{% for m in messages %}<user> {{ m['content'] }} {% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}")
WORDS = ["<eos>", "<unk>", "<user>", "<assistant>", "in", "an", "describe", "the", "distinctive", "visual", "features",
         "of", "red", "blue", "round", "oval", "cell", "spot", "normal", "malignant", "benign"]
LAYERS, WIDTH = 3, 16


def save_tiny(folder, chat=True, seed=0, change=None):
    """Save model and tokenizer under `folder`; `change(model)` may alter the weights first."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<eos>", unk_token="<unk>")
    if chat:
        tokenizer.chat_template = CHAT
    torch.manual_seed(seed)
    model = LlamaForCausalLM(LlamaConfig(
        vocab_size=len(WORDS), hidden_size=WIDTH, intermediate_size=32, num_hidden_layers=LAYERS,
        num_attention_heads=2, num_key_value_heads=1, bos_token_id=None, eos_token_id=0, pad_token_id=None,
        tie_word_embeddings=False, initializer_range=0.5))
    with torch.no_grad():
        model.lm_head.weight[:4] *= 0  # end, unknown and chat tokens are never the likeliest ...
        model.model.embed_tokens.weight[0] = 0
        if change:
            change(model)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def silent(model):
    """All logits equal: the first token, the end, is chosen at once."""
    model.lm_head.weight.zero_()


def broken(model):
    """The second layer gives infinities."""
    model.model.layers[1].mlp.down_proj.weight.fill_(float("inf"))


def huge(model):
    """Finite values far beyond fp16 in the middle layers."""
    model.model.layers[1].mlp.down_proj.weight.mul_(1e6)
