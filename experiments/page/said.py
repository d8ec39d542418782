"""What the language model said of the classes that a run learned with: its answers, or the first of its sentences."""

from dassl.utils.errors import UserError

LONGEST = 700  # letters of an answer
SENTENCES = 3


def of_runs(records):
    """{"<data set>|<llm>|<method>": {"note": words, "classes": {class: text}}} of runs that read a language model."""
    found, wanted = {}, {}
    for r in records:
        if r.get("llm"):
            key = (r["dataset"], r["llm"], r["spec"]["method"])
            wanted.setdefault(key, {}).update(dict.fromkeys(r.get("classes") or ()))
    for (dataset, llm, method), names in wanted.items():
        try:
            found["|".join((dataset, llm, method))] = _said(dataset, llm, method, list(names))
        except (UserError, OSError, KeyError) as error:
            found["|".join((dataset, llm, method))] = {"note": f"Not found here: {error}", "classes": {}}
    return found


def _said(dataset, llm, method, names):
    from cilmp import knowledge, trainers  # noqa: F401 - methods register themselves
    from dassl.engine import TRAINER_REGISTRY

    form = getattr(TRAINER_REGISTRY.get(method), "llm_form", "rows") if method in TRAINER_REGISTRY else "rows"
    if form == "sentences":
        lines = knowledge.PromptEnsembles(dataset, llm).lookup(names)
        return {"note": f"The first of {len(lines[0])} sentences of each class, by {llm}.",
                "classes": {n: " ".join(own[:SENTENCES])[:LONGEST] for n, own in zip(names, lines)}}  # fmt: skip
    store = knowledge.KnowledgeStore(dataset, llm)
    questions = store.facts(names).get("questions", {})
    asked = next((questions[n] for n in names if questions.get(n)), "")
    return {"note": f"Answers by {llm}" + (f"; asked: {asked}" if asked else "."),
            "classes": {n: text[:LONGEST] for n, text in zip(names, store.answers(names)) if text}}  # fmt: skip
