"""One run in this process, with its log in the run folder."""

import contextlib
import io
import sys

from dassl.utils.errors import UserError


def run(cfg, train=True, model_dir="", epoch=None, quiet=False):
    """Build the trainer of `cfg`, train or load, evaluate; everything printed goes to OUTPUT_DIR/log.txt as well.

    Args:
        quiet: print to the log only (a driver of many runs shows a line each).
    """
    from dassl.engine import build_trainer, claim_run_folder
    from dassl.utils import collect_env_info, set_random_seed, setup_logger

    claim_run_folder(cfg)
    console = contextlib.redirect_stdout(io.StringIO()) if quiet else contextlib.nullcontext()
    with console:
        logger = setup_logger(cfg.OUTPUT_DIR)
        try:
            if cfg.SEED >= 0:
                print(f"Setting fixed seed: {cfg.SEED}")
                set_random_seed(cfg.SEED)
            print(f"** Config **\n{cfg}\n** Environment **\n{collect_env_info()}\n")
            trainer = build_trainer(cfg)
            if train and getattr(trainer, "trains", True):
                trainer.train()
            else:
                trainer.load_model(model_dir, epoch=epoch)
                trainer.test()
        except UserError as error:
            print(f"error: {error}")
            raise
        finally:
            sys.stdout.flush()
            logger.close()
    return trainer
