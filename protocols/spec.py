"""RunSpec: what one run is. Resolved once; folder, title, checks and results read it and nothing else."""

from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from dassl.utils.io import sha256_of
from dassl.utils.paths import slug


@dataclass(frozen=True)
class RunSpec:
    """One run: train and test, or (with a `source`) load what that run learned and test.

    Attributes:
        config: the complete configuration (a frozen CfgNode); its folder is not part of what a run is.
        part: what of its protocol the run is: train_base, test_new, train_all, test_<target> ...
        file: name of the method file its settings began with.
        source: the RunSpec whose checkpoint is tested; None trains.
        label: how tables call it, where that is not the method's name.
        why_not: why this method has no such run ("" = it has).
        reads: {what: SHA-256} of what the run will read: split, groups, weights, knowledge, code from outside.
            None until `resolved`; without it there is no key, and so no folder.
    """

    config: object = field(repr=False)
    protocol: str
    part: str
    file: str
    source: "RunSpec | None" = None
    plugins: tuple = ()
    label: str = ""
    why_not: str = ""
    reads: dict | None = field(default=None, repr=False)

    method = property(lambda self: self.config.TRAINER.NAME)
    dataset = property(lambda self: self.config.DATASET.NAME)
    root = property(lambda self: self.config.DATASET.ROOT)
    shots = property(lambda self: self.config.DATASET.NUM_SHOTS)
    subset = property(lambda self: self.config.DATASET.SUBSAMPLE_CLASSES)
    seed = property(lambda self: self.config.SEED)
    split = property(lambda self: self.config.TEST.SPLIT)
    backbone = property(lambda self: self.config.MODEL.BACKBONE.NAME)
    weights = property(lambda self: self.config.MODEL.BACKBONE.WEIGHTS)
    llm = property(lambda self: self.config.MODEL.LLM)
    first = property(lambda self: self.source.first if self.source else self)  # the run that trains

    def but(self, part, changes=None, **fields):
        """This run with another part, some configuration keys {dotted: value} and fields changed."""
        config = self.config.clone()
        config.defrost()
        for dotted, value in (changes or {}).items():
            node, _, leaf = dotted.rpartition(".")
            owner = config
            for name in node.split(".") if node else ():
                owner = owner[name]
            owner[leaf] = value
        config.freeze()
        return replace(self, config=config, part=part, reads=None, **fields)

    def then(self, part, changes=None):
        """A test of what this run learned."""
        return self.but(part, changes, source=self)

    def resolved(self, reads_of):
        """This run and its sources with `reads` = reads_of(config)."""
        if self.why_not:
            return self
        source = self.source.resolved(reads_of) if self.source else None
        return replace(self, source=source, reads=reads_of(self.config))

    @cached_property
    def settings(self):
        """{dotted key: value} of the configuration, without folders and speeds."""
        from dassl.engine.run_folder import settings

        return settings(self.config)

    @cached_property
    def key(self):
        """SHA-256 of all that the run is and reads, but for the seed: equal keys are repetitions of one experiment."""
        if self.reads is None:
            raise AssertionError("resolve a RunSpec before asking for its key")
        own = {k: v for k, v in self.settings.items() if k != "SEED"}
        return sha256_of([own, self.reads, self.part, self.source.key if self.source else ""])

    def folder(self, output):
        """<output>/<protocol>/<dataset>/<method>/<backbone>/shots<k>/<file>-<key>/seed<s>/<part>, the first six those
        of the run that trains; a test on other data carries its own key too."""
        first = self.first
        shots = "shots-all" if first.shots < 1 else f"shots{first.shots}"
        place = [slug(first.dataset), first.method, slug(first.backbone), shots, f"{slug(first.file)}-{first.key[:8]}"]
        same = self.reads == first.reads and self.split == first.split
        part = self.part if same else f"{self.part}-{self.key[:8]}"
        return Path(output, first.protocol, *place, f"seed{first.seed}", part)

    def record(self):
        """What results.json says of the run: plain data."""
        facts = ("protocol", "part", "method", "dataset", "shots", "seed", "subset", "split", "backbone", "weights",
                 "llm", "file", "label")  # fmt: skip
        first = self.first
        return {
            **{name: getattr(self, name) for name in facts},
            "hparams": self.config.RUN.HPARAMS, "tuned": self.config.RUN.TUNED,
            "source": None if self.source is None else {"dataset": first.dataset, "shots": first.shots,
                                                        "part": first.part, "key": self.source.key},
            "settings": self.settings,
        }  # fmt: skip

    def __str__(self):
        return f"{self.label or self.method}, {in_words(self.first.shots)}, seed {self.seed}, {self.part}"


def in_words(shots):
    """A number of shots."""
    return "all images" if shots < 1 else f"{shots} shot{'' if shots == 1 else 's'}"
