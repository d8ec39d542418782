"""The runs of a protocol: which configurations, in which folders, from which checkpoints."""

from dataclasses import dataclass, field
from pathlib import Path

from dassl.utils.io import read_json
from dassl.utils.paths import slug


@dataclass
class Job:
    """One run: train and test, or load `source` and test."""

    method: str
    shots: int
    seed: int
    part: str  # train_base, test_new, train_all, test_<target>
    cfg: object
    folder: Path
    source: Path = None
    why_not: str = ""  # a reason why this method has no such run
    key: str = field(default="", repr=False)  # name of the method file and hash of the configuration
    label: str = ""  # how tables call it, where that is not the method's name

    @property
    def finished(self):
        return (self.folder / "results.json").is_file()

    def result(self):
        return read_json(self.folder / "results.json")

    def __str__(self):
        name = self.label or self.method
        shots = "all images" if self.shots < 1 else f"{self.shots} shots"
        return f"{name}, {shots}, seed {self.seed}, {self.part}"


def protocol_folder(output, request):
    return Path(output) / request.protocol / slug(request.dataset)


@dataclass(frozen=True)
class Group:
    """Finished runs that share a table: what tables.build asks of a Request."""

    protocol: str
    dataset: str
    backbone: str
    targets: tuple = ()


def finished_groups(output):
    """{Group: [Job]} of all results.json below an output folder (the layout of jobs_of)."""
    found = {}
    for path in sorted(Path(output).glob("*/*/*/*/shots*/*/seed*/*/results.json")):
        folder = path.parent
        protocol, _, method, _, _, key = folder.relative_to(output).parts[:6]
        r = read_json(path)
        source = r["dataset"] if not folder.name.startswith("test_") or protocol != "cross_dataset" else ""
        shots = int(folder.parts[-4].removeprefix("shots").replace("-all", "-1"))
        job = Job(method, shots, r["seed"], folder.name, None, folder, key=key)
        found.setdefault((protocol, folder.parts[-7], folder.parts[-5]), []).append((job, source, r))
    groups = {}
    for (protocol, dataset, _), entries in found.items():
        names = [s for _, s, _ in entries if s] or [dataset]
        targets = dict.fromkeys(r["dataset"] for _, s, r in entries if not s)
        groups[Group(protocol, names[0], entries[0][2]["backbone"], tuple(targets))] = [j for j, _, _ in entries]
    return groups


def jobs_of(request, base, output):
    """All jobs of a Request in running order: a table fills up evenly, seed by seed."""
    return [
        job
        for shots in request.shots
        for seed in request.seeds
        for method in request.methods
        for job in _jobs(request, base, output, method, shots, seed)
    ]


def _jobs(request, base, output, method, shots, seed):
    from dassl.engine import TRAINER_REGISTRY, config_hash

    trainer = TRAINER_REGISTRY.get(method)
    subset = "base" if request.protocol == "base2new" else "all"
    cfg, name = request.config(base, method, shots, seed, subset)
    key = f"{slug(name)}-{config_hash(cfg)[:8]}"
    shots_folder = "shots-all" if shots < 1 else f"shots{shots}"
    run = protocol_folder(output, request) / method / slug(request.backbone) / shots_folder / key / f"seed{seed}"
    why_not = trainer.bound_to_classes(cfg) if hasattr(trainer, "bound_to_classes") else ""
    if request.protocol in ("base2new", "cross_dataset") and why_not:
        return [Job(method, shots, seed, "train", cfg, run, why_not=why_not)]

    def job(part, changes=None, source=None):
        own = cfg.clone()
        own.defrost()
        own.OUTPUT_DIR = str(run / part)
        for dotted, value in (changes or {}).items():
            node, _, leaf = dotted.rpartition(".")
            setattr(own[node] if node else own, leaf, value)
        own.freeze()
        return Job(method, shots, seed, part, own, run / part, source, key=key)

    first = job(f"train_{subset}")
    if request.protocol == "base2new":
        return [first, job("test_new", {"DATASET.SUBSAMPLE_CLASSES": "new"}, first.folder)]
    if request.protocol == "cross_dataset":
        targets = [job(f"test_{slug(t)}", {"DATASET.NAME": t, "DATASET.NUM_SHOTS": -1}, first.folder)
                   for t in request.targets]  # fmt: skip
        return [first, *targets]
    return [first]
