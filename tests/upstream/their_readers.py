"""Print what each reader of a checkout gives when its own train.py has imported it: cd CHECKOUT && python
their_readers.py DATA."""

import json
import os
import random
import sys

if __name__ == "__main__":
    sys.path[0] = os.getcwd()
    import train
    from dassl.config import get_cfg_default
    from dassl.data.datasets import DATASET_REGISTRY

    found = {}
    for name in DATASET_REGISTRY.registered_names():
        cfg = get_cfg_default()
        train.extend_cfg(cfg)
        cfg.merge_from_list(["DATASET.ROOT", sys.argv[1], "DATASET.NUM_SHOTS", 1, "SEED", 1, "DATASET.NAME", name])
        random.seed(1)
        try:
            built = DATASET_REGISTRY.get(name)(cfg)
        except Exception as error:
            found[name] = f"{type(error).__name__}: {error}"
        else:
            parts = (built.train_x, built.val, built.test)
            found[name] = [[[os.path.basename(d.impath), d.label, d.classname] for d in p or []] for p in parts]
    print(json.dumps(found))
