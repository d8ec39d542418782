"""Running jobs one after another in this process: checks at the door, a line each, failures that stop nobody else."""

import datetime
import shutil
import time
import traceback

from dassl.utils.errors import UserError
from dassl.utils.io import write_text


def run_all(request, jobs):
    """Run what is not finished; returns the number of failed jobs. One line a job, ETA from those done."""
    wanted = [j for j in jobs if not j.why_not]
    todo = [j for j in wanted if request.force or not j.finished]
    if len(todo) < len(wanted):
        print(f"{len(wanted) - len(todo)} finished runs found, not repeated (FORCE=1 does)")
    if todo:
        at_the_door(request, todo)
    start, broken = time.time(), set()
    for number, job in enumerate(todo, start=1):
        where, begin = f"[{number}/{len(todo)}] {job}", time.time()
        if job.source in broken:
            broken.add(job.folder)
            print(f"{where}: not run, as its training failed", flush=True)
            continue
        if reason := attempt(job, request.force):
            broken.add(job.folder)
            print(f"{where}: failed - {reason}", flush=True)
            continue
        seconds, spent = time.time() - begin, time.time() - start
        left = datetime.timedelta(seconds=round(spent / number * (len(todo) - number)))
        accuracy = job.result()["metrics"]["accuracy"]
        print(f"{where}: accuracy {accuracy:.1f} ({seconds:.0f} s, about {left} left)", flush=True)
    return len(broken)


def attempt(job, force):
    """Run a job; returns "" or, in one line, why it failed. A traceback that is not the user's goes to error.txt."""
    from scripts.lib.run import run

    if force and job.folder.exists():
        shutil.rmtree(job.folder)
    try:
        run(job.cfg, "test" if job.source else "train", model_dir=str(job.source or ""), quiet=True)
    except UserError as error:
        return str(error)
    except Exception as error:  # out of memory, a loss that is not finite, a plugin's mistake: the others go on
        write_text(traceback.format_exc(), job.folder / "error.txt")
        words = " ".join(str(error).split())[:160]
        return f"{type(error).__name__}: {words} (see {job.folder / 'error.txt'})"
    return ""


def at_the_door(request, todo):
    """Find out before the first run, not after the last: data sets, backbone, LLM representations."""
    import backbones
    import datasets
    import trainers

    names = dict.fromkeys(j.cfg.DATASET.NAME for j in todo)
    ours = {n: datasets.info(n, request.root) for n in names if _is_ours(n)}
    for name in ours:
        if name not in datasets.locate.FOLDER_SETS:
            datasets.locate.load_split(name, request.root)
    if built := [j for j in todo if j.method in trainers.methods()]:
        model = built[0].cfg.MODEL.BACKBONE
        backbones.load(model.NAME, weights=model.WEIGHTS or None)
    for job in {j.method: j for j in built if trainers.methods()[j.method].needs_llm}.values():
        for name, info in ours.items():
            if trainers.methods()[job.method].llm_form == "rows":
                have_knowledge(name, info, request.llm)
            else:
                have_sentences(name, info, job.cfg.TRAINER[job.method.upper()], request.llm)


def _is_ours(name):
    """False for a reader of the user's own (a plugin): it may keep its files as it likes."""
    import datasets
    from dassl.data.datasets import DATASET_REGISTRY

    here = name in datasets.TABLE or name in datasets.locate.FOLDER_SETS or name == datasets.locate.PHANTOM
    return here or name not in DATASET_REGISTRY


def have_knowledge(name, info, llm):
    """Extract the LLM representations of a data set if nobody has, saying so."""
    import knowledge

    classnames = list(info.classnames)
    if knowledge.available(name, llm, classnames):
        return
    print(f"no representations of {name} by {llm} yet: extracting them", flush=True)
    path = knowledge.extract(name, classnames, llm, questions=info.questions())
    print(f"written: {path}", flush=True)


def have_sentences(name, info, node, llm):
    """Sample the sentences of a data set if nobody has, saying so; those of a file must be there."""
    import knowledge
    from scripts.extract_knowledge import phrases

    source = knowledge.PromptEnsembles(name, node.SENTENCES or llm)
    if node.SENTENCES or source.path() is not None:
        source.lookup(list(info.classnames), node.N_PROMPTS)
        return
    print(f"no sentences on {name} by {llm} yet: sampling {node.N_PROMPTS} a class", flush=True)
    names = list(info.classnames)
    print(f"written: {knowledge.sample(name, names, llm, node.N_PROMPTS, phrases(info, names))}", flush=True)
