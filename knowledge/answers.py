"""Many sentences a class, for methods that average over an ensemble of prompts (BiomedCoOp).

Stored as readable JSON, one file a data set, LLM and way of asking: {class: [sentences]}; the entry "__facts__" says
how they were made, and which file is read is told from it (see `shelf`). A JSON of one's own (the official lists of
50 a class, say) needs no such entry.
"""

import re
import zlib
from pathlib import Path

import torch
from tqdm import tqdm

from dassl.utils.errors import UnknownName, UserError
from dassl.utils.io import read_json_object, sha256_of, write_json
from dassl.utils.names import plain

from . import language_model, shelf
from .language_model import resolve_compute
from .llms import find, identity
from .names import check_distinct, match
from .store import listing

ENDING = ".prompts.json"
FACTS = "__facts__"
ASKED = (  # question, and how the answer begins: a small LLM left alone often talks of something else
    ("In one sentence, describe what {class} looks like.", "An image of {class} shows"),
    ("Describe the distinctive visual features of {class} in one sentence.", "The visual features of {class} are"),
    ("In one sentence, how is {class} recognized in a picture?", "One recognizes {class} by"),
)
SAMPLING = {"do_sample": True, "temperature": 0.8, "top_p": 0.95}
WORDS = (6, 32)  # of a usable sentence; more would not fit a text tower's context
ROUNDS = 12  # of asking before giving up


class PromptEnsembles(shelf.Kept):
    """The stored sentences of a data set's classes.

    Args:
        dataset: its name.
        llm: whose sentences; or the path of a JSON {class: [sentences]}, which is read as it is.
        phrases: {class: wording}: only sentences that were asked for in it (the bare name where a class has none);
            None: in any.
        seed: only those sampled with it; None: any.
    """

    def __init__(self, dataset, llm, phrases=None, seed=None):
        self.dataset, self.llm, self.phrases = dataset, str(llm), phrases
        self.wanted = {} if seed is None else {"seed": str(seed)}

    def lookup(self, classnames, n=None):
        """list[list[str]]: the first n sentences of each class (None: all there are), classes in the order asked."""
        path, found = self._found(classnames)
        stored = read_sentences(path)
        for name in classnames:
            if n is not None and len(stored[found[name]]) < n:
                raise UserError(f"{self.dataset}: {path} has {len(stored[found[name]])} sentences for {name!r}, {n} "
                                f"were asked for; lower the number, or {self._remedy(n)}")
        return [stored[found[name]][:n] for name in classnames]

    def sha256(self, classnames, n=None):
        """SHA-256 of the sentences that `lookup` gives; the order of the classes plays no part."""
        return sha256_of(dict(zip(classnames, self.lookup(classnames, n))))

    def _found(self, classnames):
        """(path, {asked: stored name}); UnknownName if a class is missing."""
        if self.llm.endswith(".json"):
            return self._given(classnames)
        words = None if self.phrases is None else {name: self.phrases.get(name, name) for name in classnames}
        there = entries(self.dataset)
        fit = shelf.pick(shelf.by_llm(there, self.llm), classnames, words, self.wanted,
                         f"sentences on {self.dataset} by {self.llm}")
        if fit is None:
            missing, instead = shelf.nearest(there, classnames, words, self.wanted, self.llm)
            what = f" for {listing(missing)}" if missing else ""
            instead = f" ({instead}; its path in place of the LLM takes it as it is)" if instead else ""
            raise UnknownName(f"{self.dataset}: no sentences by {self.llm}{what}{instead}; {self._remedy()}")
        return fit[0].path, fit[1]

    def _given(self, classnames):
        path = Path(self.llm).expanduser()
        if not path.is_file():
            raise UnknownName(f"{self.dataset}: there is no file of sentences {path.absolute()}")
        found = match(classnames, read_sentences(path), f"{self.dataset} ({path})")
        if missing := [name for name in classnames if name not in found]:
            raise UnknownName(f"{self.dataset}: {path} has no sentences for {listing(missing)}; {self._remedy()}")
        return path, found

    def _remedy(self, n=50):
        if self.llm.endswith(".json"):
            return "add them to that file"
        return (f"make them with: cilmp extract --dataset {self.dataset} --llm {self.llm} "
                f"--sentences {n}")


def entries(dataset):
    """What the stored files of a data set hold, the cache's first; those without "__facts__" are nobody's."""
    found = ((path, read_json_object(path)) for path in shelf.paths(dataset, ENDING))
    return [_entry(path, content) for path, content in found if FACTS in content]


def _entry(path, content):
    facts = {"compute": "fp32", **content[FACTS]}
    words = {name: facts["phrases"].get(name, name) for name in content if name != FACTS}
    settings = {key: str(value) for key, value in facts.items() if key not in ("llm", "phrases")}
    return shelf.Entry(path, facts["llm"], settings, words)


def read_sentences(path):
    """{class: [sentences]} of a JSON file, checked."""
    content = {name: lines for name, lines in read_json_object(path).items() if name != FACTS}
    for name, lines in content.items():
        good = isinstance(lines, list) and lines and all(isinstance(s, str) and s.strip() for s in lines)
        if not good:
            raise UserError(f"{path}: class {name!r} needs a list of sentences that are not empty")
    return content


def sample(dataset, classnames, llm, n=50, phrases=None, seed=1, compute="auto", device="auto", progress=True):
    """Path of the JSON with n different sentences a class, sampled from an LLM; complete classes are kept.

    phrases: {class: wording} to ask with, as in `extraction.questions_for`. The noise depends on seed, class and round
    only. A sentence counts when it names the class, is whole and has a usable length; UserError where ROUNDS
    rounds of asking give fewer than n. compute: as in `extraction.extract`.
    """
    check_distinct(classnames, dataset)
    if n < 1:
        raise UserError(f"{n} sentences a class: give a whole number above 0")
    facts = {"llm_hash": identity(llm) or find(llm).hash, "seed": seed, "asked": [" ".join(pair) for pair in ASKED],
             **SAMPLING, "compute": resolve_compute(compute, device)}
    words = {name: (phrases or {}).get(name, name) for name in classnames}
    settings, there = {key: str(value) for key, value in facts.items()}, entries(dataset)
    free = ("compute",) if compute == "auto" else ()
    for entry in shelf.complete(there, settings, words, free):
        if all(len(s) >= n for s in map(read_sentences(entry.path).get, classnames)):
            return entry.path
    home = shelf.continued(there, settings, words)
    path = home.path if home else shelf.new_path(dataset, llm, settings, words, ENDING)
    stored, asked = {}, {}
    for entry in [home, *there] if home else there:
        if entry.settings == settings:
            kept = {name: word for name, word in entry.words.items() if words.get(name, word) == word}
            sentences = read_sentences(entry.path)
            stored = {**{name: sentences[name] for name in kept}, **stored}
            asked = {**kept, **asked}
    model = language_model.LanguageModel(llm, find(llm), settings["compute"], device)
    missing = [name for name in classnames if len(stored.get(name, ())) < n]
    for name in tqdm(missing, desc=f"{dataset}: sentences by {llm}", unit="class", disable=not progress):
        stored[name], asked[name] = _sample_class(model, name, words[name], n, seed), words[name]
        write_json({FACTS: {"llm": str(llm), **facts, "phrases": asked}, **stored}, path)
    return path


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
    return sentence if whole and plain(name) in plain(sentence) else ""
