"""A causal language model of transformers that answers a question and shows what it had in mind.

transformers is imported here only, when a model is loaded.
"""

import io
from contextlib import contextmanager, nullcontext, redirect_stderr

import torch

from dassl.utils.errors import UserError
from dassl.utils.hub import HubError

from .llms import NO_HUB, cannot_be_had, folder_of

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
COMPUTE = ("auto", *DTYPES, "8bit", "4bit")


def resolve_device(device):
    """A torch.device; "auto" is CUDA where there is one. UserError for one that is not there."""
    try:
        found = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError) as error:
        why = "" if "device string" in str(error) else f" ({_first_line(error)})"  # that one lists 21 kinds
        raise UserError(f"device {device!r} is none that PyTorch has here{why}; choose auto, cpu, cuda, cuda:1 ...") \
            from None
    return found


def resolve_compute(compute, device):
    """"auto" is fp32 on the CPU and bf16 elsewhere; an unknown word is a UserError."""
    if compute not in COMPUTE:
        raise UserError(f"compute {compute!r}: choose one of {', '.join(COMPUTE)}")
    if compute == "auto":
        return "fp32" if resolve_device(device).type == "cpu" else "bf16"
    return compute


class LanguageModel:
    """A loaded LLM.

    Args:
        name: what the user called it, for messages.
        files: `llms.Files`.
        compute: fp32, bf16, fp16; 8bit and 4bit need bitsandbytes.
        device: "auto", "cpu", "cuda", "cuda:1" ...
    """

    def __init__(self, name, files, compute="auto", device="auto"):
        self.name, self.device = name, resolve_device(device)
        self.tokenizer, self.model = _load(name, files, resolve_compute(compute, device), self.device)
        if not self.has_chat_template:
            print(f"LLM {name} has no chat template: it reads the bare question", flush=True)
        self.eos = self._end_tokens()
        pad = self.tokenizer.pad_token_id
        self.pad = self.eos[0] if pad is None else pad

    @property
    def has_chat_template(self):
        return bool(self.tokenizer.chat_template)

    def _end_tokens(self):
        """Ids that end an answer, the tokenizer's first; a model may have several (Llama-3-Instruct does)."""
        own = self.tokenizer.eos_token_id
        listed = self.model.generation_config.eos_token_id
        listed = [] if listed is None else listed if isinstance(listed, list) else [listed]
        ids = list(dict.fromkeys([own, *listed] if own is not None else listed))
        if not ids:
            raise UserError(f"LLM {self.name}: its tokenizer has no end token; choose another model ({NO_HUB})")
        return ids

    def prompt(self, question):
        """Token ids of a question, through the chat template where the tokenizer has one."""
        if not self.has_chat_template:
            return self.tokenizer(question)["input_ids"]
        turn = [{"role": "user", "content": question}]
        text = self.tokenizer.apply_chat_template(turn, add_generation_prompt=True, tokenize=False)
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def begin(self, words):
        """Token ids of the first words of an answer."""
        return self.tokenizer(words, add_special_tokens=False)["input_ids"]

    def answer(self, prompts, max_new_tokens, **sampling):
        """Ids of the answers to some prompts (lists of ids), each ending in exactly one end token.

        Greedy unless `sampling` says otherwise (do_sample, temperature, top_p, num_return_sequences).
        """
        from transformers import GenerationConfig

        longest = max(map(len, prompts))  # padding goes to the left: answers start at one place
        ids = torch.tensor([[self.pad] * (longest - len(p)) + p for p in prompts], device=self.device)
        mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts], device=self.device)
        config = GenerationConfig(**{"do_sample": False, **sampling}, max_new_tokens=max_new_tokens,
                                  eos_token_id=self.eos, pad_token_id=self.pad)
        with torch.inference_mode():
            out = self.model.generate(input_ids=ids, attention_mask=mask, generation_config=config)
        return [self._ended(row) for row in out[:, longest:].tolist()]

    def _ended(self, ids):
        """Up to and with the first end token, which is appended if missing."""
        ends = [i for i, token in enumerate(ids) if token in self.eos]
        return ids[: ends[0] + 1] if ends else [*ids, self.eos[0]]

    def text(self, ids):
        return self.tokenizer.decode(ids, skip_special_tokens=True).strip()

    @torch.inference_mode()
    def rows(self, prompt, answer, pool):
        """(K, D) fp32 on the CPU: what the model holds after reading question and answer.

        layers: a row for each decoder layer at the last (end) token; the last row is after the final norm.
        tokens: a row for each token of the answer, its end token included, after the final norm.
        """
        ids = torch.tensor([prompt + answer], device=self.device)
        states = self.model(input_ids=ids, attention_mask=torch.ones_like(ids), output_hidden_states=True,
                            use_cache=False).hidden_states  # embeddings, then each layer: (1, tokens, D)
        if pool == "layers":
            return torch.stack([s[0, -1].float().cpu() for s in states[1:]])
        return states[-1][0, len(prompt):].float().cpu()


def _load(name, files, compute, device):
    """(tokenizer, model) in eval mode; one clear line when they are not to be had. Nothing that a repository or folder
    brings is run, and its weights are fetched last."""
    import transformers

    options = {"gguf_file": files.gguf} if files.gguf else {}
    options |= {"local_files_only": True, "trust_remote_code": False}
    try:
        with _quiet(files.gguf):
            folder = folder_of(files)
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **options)
            if not files.gguf:
                transformers.AutoConfig.from_pretrained(folder, **options)
            model = transformers.AutoModelForCausalLM.from_pretrained(
                folder_of(files, weights=True), **options, **_weight_options(transformers, name, compute, device))
    except HubError as error:
        raise cannot_be_had(name, error) from None
    except UserError:
        raise
    except OSError as error:  # gated, not downloaded, a file missing
        raise cannot_be_had(name, _first_line(error)) from None
    except (ValueError, KeyError, ImportError, RuntimeError) as error:
        if "trust_remote_code" in str(error):
            raise UserError(f"LLM {name}: its tokenizer or model is Python code in its repository, and such code is "
                            f"never run here; choose a model that transformers knows ({NO_HUB})") from None
        raise UserError(f"LLM {name}: transformers can't load it as a causal language model ({_first_line(error)})") \
            from error
    model = model if compute in ("8bit", "4bit") else model.to(device)
    return tokenizer, model.eval().requires_grad_(False)


def _weight_options(transformers, name, compute, device):
    if compute in DTYPES:
        major, minor = map(int, transformers.__version__.split(".")[:2])
        return {"dtype" if (major, minor) >= (4, 56) else "torch_dtype": DTYPES[compute]}
    try:
        import bitsandbytes  # noqa: F401
    except ImportError:
        raise UserError(f"LLM {name}: {compute} weights need bitsandbytes (pip install bitsandbytes), or choose "
                        f"--compute bf16") from None
    quantised = transformers.BitsAndBytesConfig(load_in_8bit=compute == "8bit", load_in_4bit=compute == "4bit",
                                                bnb_4bit_compute_dtype=torch.bfloat16)
    return {"quantization_config": quantised, "device_map": {"": str(device)}}


def _first_line(error):
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


@contextmanager
def _quiet(gguf):
    """No notes of transformers while it loads; bars of a hub's downloads stay, those of a GGUF's conversion go."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with redirect_stderr(io.StringIO()) if gguf else nullcontext():
            yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
