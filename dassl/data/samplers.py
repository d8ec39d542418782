"""Samplers by upstream's names."""

import copy
import random
from collections import defaultdict

import numpy as np
from torch.utils.data.sampler import RandomSampler, Sampler, SequentialSampler

from dassl.utils.errors import ConfigError, unknown_name

NAMES = ("RandomSampler", "SequentialSampler", "RandomDomainSampler", "SeqDomainSampler", "RandomClassSampler")


def _grouped(data_source, attribute):
    groups = defaultdict(list)
    for index, item in enumerate(data_source):
        groups[getattr(item, attribute)].append(index)
    return groups


class _DomainSampler(Sampler):
    """Batches with an equal share of each of n_domain domains; stops when one of them runs out."""

    def __init__(self, data_source, batch_size, n_domain=0):
        self.groups = _grouped(data_source, "domain")
        self.domains = sorted(self.groups)
        self.n_domain = n_domain if n_domain > 0 else len(self.domains)
        if batch_size % self.n_domain:
            raise ConfigError(f"batch size {batch_size} must be a multiple of the {self.n_domain} domains in a batch")
        self.share = batch_size // self.n_domain
        self.length = len(list(iter(self)))

    def _choose(self, left):
        raise NotImplementedError

    def __iter__(self):
        left = {d: random.sample(v, len(v)) for d, v in self.groups.items()}
        order = []
        while True:
            chosen = self._choose(left)
            if any(len(left[d]) < self.share for d in chosen):
                break
            for d in chosen:
                order += [left[d].pop() for _ in range(self.share)]
        return iter(order)

    def __len__(self):
        return self.length


class RandomDomainSampler(_DomainSampler):
    def _choose(self, left):
        return random.sample(self.domains, self.n_domain)


class SeqDomainSampler(_DomainSampler):
    def _choose(self, left):
        return self.domains


class RandomClassSampler(Sampler):
    """batch // n_ins classes times n_ins items; short classes are filled with replacement."""

    def __init__(self, data_source, batch_size, n_ins):
        if batch_size < n_ins:
            raise ConfigError(f"batch size {batch_size} is below the {n_ins} items a class")
        self.groups, self.n_ins = _grouped(data_source, "label"), n_ins
        self.classes_per_batch = batch_size // n_ins
        self.length = len(list(iter(self)))

    def _portions(self, indices):
        indices = copy.copy(indices)
        if len(indices) < self.n_ins:
            indices = list(np.random.choice(indices, size=self.n_ins, replace=True))
        random.shuffle(indices)
        whole = len(indices) // self.n_ins * self.n_ins
        return [indices[i : i + self.n_ins] for i in range(0, whole, self.n_ins)]

    def __iter__(self):
        portions = {label: self._portions(indices) for label, indices in self.groups.items()}
        order = []
        while len(portions) >= self.classes_per_batch:
            for label in random.sample(sorted(portions), self.classes_per_batch):
                order += portions[label].pop(0)
                if not portions[label]:
                    del portions[label]
        return iter([int(i) for i in order])

    def __len__(self):
        return self.length


def build_sampler(sampler_type, cfg=None, data_source=None, batch_size=32, n_domain=0, n_ins=16):
    """A sampler by name. Random orders come from torch's and Python's global generators."""
    if sampler_type not in NAMES:
        raise unknown_name("sampler", sampler_type, NAMES)
    if sampler_type == "RandomSampler":
        return RandomSampler(data_source)
    if sampler_type == "SequentialSampler":
        return SequentialSampler(data_source)
    if sampler_type == "RandomClassSampler":
        return RandomClassSampler(data_source, batch_size, n_ins)
    kind = RandomDomainSampler if sampler_type == "RandomDomainSampler" else SeqDomainSampler
    return kind(data_source, batch_size, n_domain)
