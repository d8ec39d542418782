"""SplitDataset: a data set that is a CoOp-style split file and its images.

A reader of a public set is a row of the table (`datasets/tables`); a folder with a split.json needs none.
"""

from cilmp.datasets import located, sampling
from dassl.data.datasets import DatasetBase, Datum
from dassl.data.datasets.subset import class_subset
from dassl.utils.errors import ConfigError
from dassl.utils.io import read_json, sha256_of, write_json
from dassl.utils.paths import cache_root, slug


class SplitDataset(DatasetBase):
    """train_x, val and test of a set after few-shot sampling, then after the choice of base or new classes.

    Class attributes: `name` (registry name, "" = DATASET.NAME). Instance attributes beyond DatasetBase:
        located       the Located set: whole split, base, info, groups
        root_dir      folder the relative paths of the split start from (hashes are over relative paths)
        groups        {impath: patient, lesion ...} of the images that have one
        lateral       left and right mean something: no flips
        source_note   words that travel with every table of this set ("" = none)
        modality      phrase of the LLM question; `wording` {class name: clearer wording}
        info          the DatasetInfo of the whole set (all classes)
        whole_val     val before few-shot sampling, of the run's classes
        knowledge_names  the set's own class names in label order, whatever DATASET.CLASSNAMES shows to CLIP
    """

    name = ""
    takes_subset = True  # base or new classes are chosen here

    def __init__(self, cfg):
        self.located = self.locate(cfg.DATASET.NAME, cfg.DATASET.ROOT, max(cfg.INPUT.SIZE))
        split, self.info = self.located.split, self.located.info
        self.root_dir, self.split_path = str(self.located.base), split.path
        self.dataset_dir = str(split.path.parent)
        self.groups = {self.located.impath(file): group for file, group in self.located.groups.items()}
        self.modality, self.wording = self.info.modality, self.info.wording
        self.lateral, self.source_note = self.info.lateral, self.info.source_note
        chosen = class_subset(range(len(split.classnames)), cfg.DATASET.SUBSAMPLE_CLASSES)
        self.knowledge_names = [split.classnames[old] for old in chosen]
        shown = self._shown_names(cfg)
        data = {part: [Datum(impath=self.located.impath(file), label=chosen[label], classname=shown[label])
                       for file, label, _ in rows if label in chosen]
                for part, rows in ({"whole_val": split.val} | self._sampled(cfg, split)).items()}
        self.whole_val = data.pop("whole_val")
        self.tested_on = cfg.DATASET.TEST_ON
        if self.tested_on:
            data["test"] = self._external(cfg, [shown[old] for old in chosen])
        if cfg.DATALOADER.CACHE_IMAGES:
            data = self._cached(data, cfg.INPUT)
        super().__init__(train_x=data["train"], val=data["val"] or None, test=data["test"])
        self._fix_classes([shown[old] for old in chosen])

    @classmethod
    def locate(cls, name, root="", size=224):
        """The Located set (split, base, info, groups); a reader of another layout has its own.

        Args:
            name, root: DATASET.NAME and DATASET.ROOT.
            size: pixels wanted, where a set comes in several sizes.
        """
        return located.by_name(cls.name or name, root, size)

    def reads(self):
        """{"split": SHA-256 of the whole lists, "groups": of the groups}, as `datasets.reads` says beforehand."""
        return self.located.reads()

    def _external(self, cfg, shown):
        """[Datum] of another set's test part, in these classes."""
        from cilmp.datasets import registration
        from cilmp.datasets.external import external_test

        if cfg.DATASET.SUBSAMPLE_CLASSES != "all":
            raise ConfigError("DATASET.TEST_ON goes with all classes, not with base or new")
        there = registration.resolve(self.tested_on, cfg.DATASET.ROOT)
        target = there.locate(self.tested_on, cfg.DATASET.ROOT, max(cfg.INPUT.SIZE))
        items, groups = external_test(self.located, target, shown)
        self.groups |= groups
        if target.info.source_note not in self.source_note:
            self.source_note = f"{self.source_note} {target.info.source_note}".strip()
        return items

    def _cached(self, data, wished):
        """The lists with pixels out of the machine's cache of decoded images."""
        from cilmp.datasets.image_cache import cached

        items = [datum for rows in data.values() for datum in rows]
        squash = wished.RESIZE_MODE == "squash"
        everything = iter(cached(items, self.root_dir, max(wished.SIZE), wished.INTERPOLATION, squash))
        return {part: [next(everything) for _ in rows] for part, rows in data.items()}

    def _sampled(self, cfg, split):
        """{part: entries} after DATASET.NUM_SHOTS; the lists are kept as JSON in the cache, next to nothing else.

        The cache holds what was drawn, keyed by the split's content: it is a record to read and to share, and the
        draw itself depends on SEED alone, so a lost or foreign cache changes nothing.
        """
        shots, seed, rule = cfg.DATASET.NUM_SHOTS, cfg.SEED, cfg.DATASET.SHOT_SAMPLING
        if shots < 1:
            return split.parts()
        train, val = sampling.few_shot(split.train, split.val, shots, seed, rule, cfg.DATASET.VAL_SHOTS)
        lists = {"train": train, "val": val}
        if seed >= 0:
            mark = "" if rule == "balanced" else f"-{rule}"
            mark += f"-val_{cfg.DATASET.VAL_SHOTS}" if cfg.DATASET.VAL_SHOTS else ""
            _record(lists, cache_root() / "few_shot" / slug(self.info.name) / sha256_of(split.parts())[:12]
                    / f"shot_{shots}-seed_{seed}{mark}.json")
        return {**lists, "test": split.test}

    def _shown_names(self, cfg):
        """Class names that CLIP sees: the data set's own, or the clinical wording."""
        mode, names = cfg.DATASET.CLASSNAMES, self.info.classnames
        if mode not in ("dataset", "clinical"):
            raise ConfigError(f"DATASET.CLASSNAMES is {mode!r}; use dataset or clinical")
        return [self.info.wording[n] for n in names] if mode == "clinical" else list(names)

    def _fix_classes(self, names):
        """The classes are those of the split, though a natural few-shot draw may have left one without image."""
        self._num_classes, self._classnames = len(names), names
        self._lab2cname = dict(enumerate(names))


def _record(lists, path):
    rows = {part: [list(entry) for entry in entries] for part, entries in lists.items()}
    if not path.is_file() or read_json(path) != rows:
        write_json(rows, path, indent=1)
