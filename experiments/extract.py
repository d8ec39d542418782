"""Ask a language model what the classes of a data set look like, store it, and print what it said.

    cilmp extract --dataset phantom --llm smollm2-135m
    cilmp extract --dataset BUSI --llm meta-llama/Meta-Llama-3-8B --device cuda --dtype bf16
    cilmp extract --dataset mydata --llm ~/models/some.gguf --classes "melanoma;nevus"
    cilmp extract --dataset mydata --llm smollm2-135m --sentences 50     # for BiomedCoOp
    cilmp extract --plugin my_reader.py --dataset MyDataset --root ~/data --llm smollm2-135m

What is stored by the same LLM in the same words is kept (--force asks again); other words, templates or dtypes get a
file of their own. Files go under $CILMP_CACHE (default ~/.cache/cilmp).
"""

import re

from cilmp import knowledge
from cilmp.datasets.locate import ROOT_HELP
from cilmp.knowledge import controls
from cilmp.knowledge.language_model import COMPUTE, DTYPES
from dassl.utils.errors import UserError
from dassl.utils.flags import Parser


def parser():
    p = Parser("cilmp extract", __doc__)
    p.add_argument("--dataset", required=True, metavar="NAME", help="a data set's name; its rows are looked up by it")
    p.add_argument("--llm", required=True, metavar="NAME", help="hub id, model folder, GGUF file, or one of: "
                   + ", ".join(name for name, _ in knowledge.known()))
    p.add_argument("--root", default="", metavar="DIR", help=ROOT_HELP)
    p.add_argument("--plugin", action="append", default=[], metavar="FILE",
                   help="FILE.py or module with your own reader")
    p.add_argument("--classes", default="", metavar='"A;B;C"', help="only these; also where no data set is at hand")
    p.add_argument("--template", default=knowledge.TEMPLATE, metavar="TEXT", help="the question, with {class} in it")
    p.add_argument("--wording", choices=["bare", "dataset"], default="dataset",
                   help="{class} is the bare class name (as in the paper), or the data set's clearer wording and "
                   "modality where it declares them (default)")
    p.add_argument("--knowledge", choices=["real", *controls.CONTROLS_ASKED], default="real",
                   help="ask as this kind of TRAINER.CILMP.KNOWLEDGE is asked")
    p.add_argument("--pool", choices=["layers", "tokens"], default="layers", help="a row a decoder layer, or a token")
    p.add_argument("--dtype", choices=list(DTYPES), default="fp32", help="of the stored rows")
    p.add_argument("--compute", choices=COMPUTE, default="auto", help="of the LLM; auto: fp32 on CPU, bf16 on GPU")
    p.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 ...")
    p.add_argument("--max-new-tokens", type=int, default=128, metavar="N", help="of an answer")
    p.add_argument("--batch-size", type=int, default=1, metavar="N", help="questions at once")
    p.add_argument("--sentences", type=int, default=0, metavar="N", help="sample N sentences a class instead of rows")
    p.add_argument("--seed", type=int, default=1, metavar="N", help="of --sentences")
    p.add_argument("--force", action="store_true", help="ask again what is stored")
    return p


def classes_and_info(dataset, root="", classes="", plugins=()):
    """(class names, DatasetInfo or None) of a data set.

    `classes` "a;b" restricts them, or names those of a set that is not on this machine. The reader of a plugin gives
    its own names.
    """
    from cilmp.datasets import data_root
    from cilmp.experiments.reads import info_of
    from cilmp.experiments.settings import base_config

    cfg = base_config(plugins)
    cfg.DATASET.NAME, cfg.DATASET.ROOT = dataset, str(data_root(root))
    chosen = [name.strip() for name in classes.split(";") if name.strip()]
    try:
        info = info_of(cfg)
    except UserError:
        if not chosen:
            raise
        return chosen, None
    return chosen or list(info.classnames), info


def questions(args, names, info):
    """({class: question}, the template they came from) that the words of the command ask for."""
    if args.knowledge == "real":
        called = info.phrases(names) if info and args.wording == "dataset" else {}
        return knowledge.questions_for(names, args.template, called), args.template
    if args.template != knowledge.TEMPLATE or args.wording != "dataset" or args.sentences:
        raise UserError(f"--knowledge {args.knowledge} asks for rows in words of its own; leave out --template, "
                        f"--wording and --sentences")
    return controls.questions(info, names, args.knowledge), controls.template(args.knowledge)


def table(rows, width=88):
    """Class and text side by side, wrapped."""
    from tabulate import tabulate

    rows = [(name, re.sub(r"\n\s*\n", "\n", text)) for name, text in rows]
    return tabulate(rows, headers=["class", "answer"], maxcolwidths=[24, width], tablefmt="simple_grid")


def say_how_to_read(store, names, path):
    """Where a run would read other rows or sentences by the same LLM, it must be told which are meant."""
    try:
        alone = store.path(names) == path
    except UserError:
        alone = False
    if not alone:
        print(f"A run does not ask so, or others by {store.llm} fit too; one that should read these needs LLM={path}")


def main(argv=None):
    args = parser().parse_args(argv)
    if args.sentences < 0:
        raise UserError(f"--sentences {args.sentences}: give a whole number above 0")
    names, info = classes_and_info(args.dataset, args.root, args.classes, args.plugin)
    asked, template = questions(args, names, info)
    if args.sentences:
        called = info.phrases(names) if info and args.wording == "dataset" else {}
        path = knowledge.sample(args.dataset, names, args.llm, args.sentences, called, args.seed, args.compute,
                                args.device)
        lines = knowledge.PromptEnsembles(args.dataset, path).lookup(names, args.sentences)
        print(table([(name, "\n".join(s)) for name, s in zip(names, lines)]))
        print(f"{args.sentences} sentences a class: {path}")
        say_how_to_read(knowledge.PromptEnsembles(args.dataset, args.llm), names, path)
        return
    path = knowledge.extract(args.dataset, names, args.llm, asked, template, args.pool, args.dtype, args.compute,
                             args.device, args.max_new_tokens, args.batch_size, force=args.force)
    store = knowledge.KnowledgeStore(args.dataset, path, args.pool)
    h, lengths = store.lookup(names)
    print(table(zip(names, store.answers(names))))
    print(f"asked: {asked[names[0]]}")
    print(f"{len(names)} classes, {int(lengths.min())}-{int(lengths.max())} rows of width {h.shape[-1]}: {path}")
    say_how_to_read(controls.store(args.dataset, args.llm, info, names, args.knowledge), names, path)

