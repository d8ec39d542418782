"""Many sentences a class, for methods that average over an ensemble of prompts (BiomedCoOp).

Stored as readable JSON, one file a data set and LLM: {class: [sentences]}; the entry "__facts__" says how they
were made. A JSON of one's own (the official lists of 50 a class, say) needs no such entry.
"""

import re
import zlib
from pathlib import Path

import torch
from tqdm import tqdm

from dassl.utils.errors import UnknownName, UserError
from dassl.utils.io import read_json, write_json
from dassl.utils.paths import cache_root

from . import language_model
from .llms import find
from .names import check_distinct, match, normalised
from .store import SHIPPED, store_name

FACTS = "__facts__"
ASKED = (  # question, and how the answer begins: a small LLM left alone often talks of something else
    ("In one sentence, describe what {class} looks like.", "An image of {class} shows"),
    ("Describe the distinctive visual features of {class} in one sentence.", "The visual features of {class} are"),
    ("In one sentence, how is {class} recognized in a picture?", "One recognizes {class} by"),
)
SAMPLING = {"do_sample": True, "temperature": 0.8, "top_p": 0.95}
WORDS = (6, 32)  # of a usable sentence; more would not fit a text tower's context
ROUNDS = 12  # of asking before giving up


def ensembles_name(dataset, llm):
    return store_name(dataset, llm).with_suffix("").as_posix() + ".prompts.json"


class PromptEnsembles:
    """The stored sentences of a data set's classes; `llm` may be the path of a JSON {class: [sentences]}."""

    def __init__(self, dataset, llm):
        self.dataset, self.llm = dataset, str(llm)

    def path(self):
        given = Path(self.llm).expanduser()
        if given.suffix == ".json":
            return given if given.is_file() else None
        name = ensembles_name(self.dataset, self.llm)
        return next((p for p in (cache_root() / "knowledge" / name, SHIPPED / name) if p.is_file()), None)

    def lookup(self, classnames, n=None):
        """list[list[str]]: the first n sentences of each class (None: all there are), classes in the order asked."""
        path = self.path()
        if path is None:
            raise UnknownName(f"{self.dataset}: no sentences by {self.llm}; {self._remedy()}")
        stored = read_sentences(path)
        found = match(classnames, stored, f"{self.dataset} ({path})")
        for name in classnames:
            if name not in found:
                raise UnknownName(f"{self.dataset}: {path} has no sentences for {name!r}; {self._remedy()}")
            if n is not None and len(stored[found[name]]) < n:
                raise UserError(f"{self.dataset}: {path} has {len(stored[found[name]])} sentences for {name!r}, {n} "
                                f"were asked for; lower the number, or {self._remedy(n)}")
        return [stored[found[name]][:n] for name in classnames]

    def _remedy(self, n=50):
        if self.llm.endswith(".json"):
            return "add them to that file"
        return (f"make them with: python scripts/extract_knowledge.py --dataset {self.dataset} --llm {self.llm} "
                f"--sentences {n}")


def read_sentences(path):
    """{class: [sentences]} of a JSON file, checked."""
    content = read_json(path)
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected an object {{class: [sentences]}}")
    content = {name: lines for name, lines in content.items() if name != FACTS}
    for name, lines in content.items():
        good = isinstance(lines, list) and lines and all(isinstance(s, str) and s.strip() for s in lines)
        if not good:
            raise UserError(f"{path}: class {name!r} needs a list of sentences that are not empty")
    return content


def sample(dataset, classnames, llm, n=50, phrases=None, seed=1, compute="auto", device="auto", progress=True):
    """Path of the JSON with n different sentences a class, sampled from an LLM; complete classes are kept.

    phrases: {class: wording} to ask with, as in `extraction.questions_for`. The noise depends on seed, class and round
    only. A sentence counts when it names the class, is whole and has a usable length; UserError where ROUNDS
    rounds of asking give fewer than n.
    """
    check_distinct(classnames, dataset)
    files, path = find(llm), cache_root() / "knowledge" / ensembles_name(dataset, llm)
    facts = {"llm": str(llm), "llm_hash": files.hash, "seed": seed, "asked": [" ".join(pair) for pair in ASKED],
             "phrases": phrases or {}, **SAMPLING}
    stored = _kept(path, SHIPPED / ensembles_name(dataset, llm), facts)
    missing = [name for name in classnames if len(stored.get(name, ())) < n]
    if not missing:
        return path if path.is_file() else SHIPPED / ensembles_name(dataset, llm)
    model = language_model.LanguageModel(llm, files, compute, device)
    for name in tqdm(missing, desc=f"{dataset}: sentences by {llm}", unit="class", disable=not progress):
        stored[name] = _sample_class(model, name, (phrases or {}).get(name, name), n, seed)
        write_json({FACTS: facts, **stored}, path)
    return path


def _kept(path, shipped, facts):
    source = path if path.is_file() else shipped
    if not source.is_file() or read_json(source).get(FACTS) != facts:
        return {}
    return read_sentences(source)


def _sample_class(model, name, phrase, n, seed):
    """n different sentences that name the class; each round asks for somewhat more than are still missing."""
    kept = {}
    for number in range(ROUNDS):
        each = -(-(n - len(kept)) * 4 // (3 * len(ASKED)))
        for text in _continue(model, name, phrase, each, zlib.crc32(f"{seed}/{name}/{number}".encode())):
            sentence = usable(text, name)
            if sentence:
                kept.setdefault(sentence.lower(), sentence)
        if len(kept) >= n:
            return list(kept.values())[:n]
    raise UserError(f"LLM {model.name} gave {len(kept)} usable sentences about class {name!r}, {n} were asked for; ask "
                    f"for fewer or use another LLM")


def _continue(model, name, phrase, each, noise):
    """Texts of the answers to every question of ASKED, `each` of them; `noise` seeds the sampling."""
    begun = [model.begin(start.replace("{class}", name)) for _, start in ASKED]
    prompts = [model.prompt(question.replace("{class}", phrase)) + ids for (question, _), ids in zip(ASKED, begun)]
    with torch.random.fork_rng(devices=[model.device] if model.device.type == "cuda" else []):
        torch.manual_seed(noise)
        answers = model.answer(prompts, 48, **SAMPLING, num_return_sequences=each)
    return [model.text(begun[i // each] + ids) for i, ids in enumerate(answers)]


def usable(text, name):
    """The first sentence of an answer if it is whole, names the class and has a usable length; else ""."""
    sentence = re.split(r"(?<=[.!?])\s", " ".join(text.split()), maxsplit=1)[0].strip("\"' *")
    whole = sentence.endswith((".", "!")) and WORDS[0] <= len(sentence.split()) <= WORDS[1]
    return sentence if whole and normalised(name) in normalised(sentence) else ""
