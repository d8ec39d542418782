"""Datum and DatasetBase, with upstream's constructor keywords and helpers."""

import os
import random
import tarfile
import zipfile
from collections import defaultdict

from dassl.utils.errors import UserError
from dassl.utils.tools import check_isfile


class Datum:
    """One image: path, label, domain, class name; read-only."""

    def __init__(self, impath="", label=0, domain=0, classname=""):
        if not isinstance(impath, str):
            raise TypeError(f"impath must be a str, got {type(impath).__name__}")
        self._impath, self._label, self._domain, self._classname = impath, label, domain, classname

    @property
    def impath(self):
        return self._impath

    @property
    def label(self):
        return self._label

    @property
    def domain(self):
        return self._domain

    @property
    def classname(self):
        return self._classname

    def __repr__(self):
        return f"Datum({self._impath!r}, {self._label}, {self._domain}, {self._classname!r})"


class DatasetBase:
    """Lists of Datum: train_x, optional train_u and val, and test."""

    dataset_dir = ""
    domains = ()

    def __init__(self, train_x=None, train_u=None, val=None, test=None):
        self._train_x, self._train_u, self._val, self._test = train_x, train_u, val, test
        self._num_classes = self.get_num_classes(train_x)
        self._lab2cname, self._classnames = self.get_lab2cname(train_x)

    @property
    def train_x(self):
        return self._train_x

    @property
    def train_u(self):
        return self._train_u

    @property
    def val(self):
        return self._val

    def keep_val_apart(self):
        """Leave val out where it shares images with test (readers of CoOp's family give the same list for both): what
        is chosen on it would be chosen on test."""
        tested = {item.impath for item in self.test}
        if shared := sum(item.impath in tested for item in self.val or []):
            print(f"{shared} of {len(self.val)} val images are test images: val is left out, or test would choose")
            self._val = None

    @property
    def test(self):
        return self._test

    @property
    def lab2cname(self):
        return self._lab2cname

    @property
    def classnames(self):
        return self._classnames

    @property
    def num_classes(self):
        return self._num_classes

    @staticmethod
    def get_num_classes(data_source):
        """Highest label + 1."""
        return max(item.label for item in data_source) + 1 if data_source else 0

    @staticmethod
    def get_lab2cname(data_source):
        """({label: name}, names sorted by label). Raises UserError for two names on one label."""
        names = {}
        for item in data_source or []:
            if names.setdefault(item.label, item.classname) != item.classname:
                raise UserError(f"label {item.label} has two class names: {names[item.label]!r}, {item.classname!r}")
        return names, [names[label] for label in sorted(names)]

    def check_input_domains(self, source_domains, target_domains):
        self.is_input_domain_valid(source_domains)
        self.is_input_domain_valid(target_domains)

    def is_input_domain_valid(self, input_domains):
        for domain in input_domains:
            if domain not in self.domains:
                raise ValueError(f"domain {domain!r} is not one of {self.domains}")

    def download_data(self, url, dst, from_gdrive=True):
        """Fetch an archive and unpack it beside itself; members that leave the folder are refused."""
        if not check_isfile(dst):
            if from_gdrive:
                import gdown

                gdown.download(url, dst, quiet=False)
            else:
                import torch

                torch.hub.download_url_to_file(url, dst)
        folder = os.path.dirname(dst)
        if zipfile.is_zipfile(dst):
            with zipfile.ZipFile(dst) as archive:
                root = os.path.realpath(folder)
                for name in archive.namelist():
                    if not os.path.realpath(os.path.join(folder, name)).startswith(root + os.sep):
                        raise UserError(f"{dst} holds {name!r}, which would be written outside {folder}; not unpacked")
                archive.extractall(folder)
        elif tarfile.is_tarfile(dst):
            with tarfile.open(dst) as archive:
                archive.extractall(folder, filter="data")
        else:
            raise UserError(f"{dst} is neither a zip nor a tar archive")

    def generate_fewshot_dataset(self, *data_sources, num_shots=-1, repeat=False):
        """num_shots items a class by random.sample, classes in order of first appearance; < 1 changes nothing.

        Args:
            repeat: draw short classes up to num_shots with replacement; otherwise they are taken whole.
        """
        if num_shots < 1:
            return data_sources[0] if len(data_sources) == 1 else data_sources
        print(f"Creating a {num_shots}-shot dataset")
        output = []
        for source in data_sources:
            chosen = []
            for items in self.split_dataset_by_label(source).values():
                if len(items) >= num_shots:
                    chosen += random.sample(items, num_shots)
                else:
                    chosen += random.choices(items, k=num_shots) if repeat else items
            output.append(chosen)
        return output[0] if len(output) == 1 else output

    def split_dataset_by_label(self, data_source):
        groups = defaultdict(list)
        for item in data_source:
            groups[item.label].append(item)
        return groups

    def split_dataset_by_domain(self, data_source):
        groups = defaultdict(list)
        for item in data_source:
            groups[item.domain].append(item)
        return groups
