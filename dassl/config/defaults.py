"""The default tree: upstream's keys with upstream's defaults; ours are marked 'ours'."""

from yacs.config import CfgNode as CN

_C = CN()
_C.VERSION = 1
_C.OUTPUT_DIR = "./output"
_C.RESUME = ""  # folder to resume from
_C.SEED = -1  # negative: unseeded
_C.USE_CUDA = True
_C.VERBOSE = True
_C.THREADS = 0  # ours: CPU threads, fixed per run; 0 leaves torch's

_C.RUN = CN()  # ours: recorded in results.json
_C.RUN.PROTOCOL = ""
_C.RUN.HPARAMS = "custom"  # official, matched, demo, default, custom
_C.RUN.TUNED = False  # official values that the method's authors tuned for this very data set

_C.INPUT = CN()
_C.INPUT.SIZE = (224, 224)
_C.INPUT.INTERPOLATION = "bilinear"
_C.INPUT.RESIZE_MODE = "shortest"  # ours, of test images: shorter side to SIZE, then the middle; squash: all to SIZE
_C.INPUT.TRANSFORMS = ()
_C.INPUT.NO_TRANSFORM = False
_C.INPUT.NO_NORMALIZE = False  # ours: pixels stay 0 to 1; otherwise PIXEL_MEAN and PIXEL_STD are always applied
_C.INPUT.PIXEL_MEAN = [0.485, 0.456, 0.406]
_C.INPUT.PIXEL_STD = [0.229, 0.224, 0.225]
_C.INPUT.CROP_PADDING = 4
_C.INPUT.RRCROP_SCALE = (0.08, 1.0)
_C.INPUT.CUTOUT_N = 1
_C.INPUT.CUTOUT_LEN = 16
_C.INPUT.GN_MEAN = 0.0
_C.INPUT.GN_STD = 0.15
_C.INPUT.RANDAUGMENT_N = 2
_C.INPUT.RANDAUGMENT_M = 10
_C.INPUT.COLORJITTER_B = 0.4
_C.INPUT.COLORJITTER_C = 0.4
_C.INPUT.COLORJITTER_S = 0.4
_C.INPUT.COLORJITTER_H = 0.1
_C.INPUT.RGS_P = 0.2
_C.INPUT.GB_P = 0.5
_C.INPUT.GB_K = 21

_C.INPUT.SET = ()  # ours: which of the keys that a backbone sets were set by hand

_C.DATASET = CN()
_C.DATASET.ROOT = ""
_C.DATASET.NAME = ""
_C.DATASET.SOURCE_DOMAINS = ()
_C.DATASET.TARGET_DOMAINS = ()
_C.DATASET.NUM_LABELED = -1
_C.DATASET.NUM_SHOTS = -1
_C.DATASET.VAL_PERCENT = 0.1
_C.DATASET.STL10_FOLD = -1
_C.DATASET.CIFAR_C_TYPE = ""
_C.DATASET.CIFAR_C_LEVEL = 1
_C.DATASET.ALL_AS_UNLABELED = False
_C.DATASET.SUBSAMPLE_CLASSES = "all"  # all, base, new (plugins of the CoOp family add this key)
_C.DATASET.TEST_ON = ""  # ours: another set of the same classes, whose test images take the place of this one's
_C.DATASET.VAL_SHOTS = 0  # ours: images a class of val beside NUM_SHOTS of train; 0 = min(NUM_SHOTS, 4), -1 = NUM_SHOTS
_C.DATASET.SHOT_SAMPLING = "balanced"  # ours: balanced (Dassl's) or natural (as the data is distributed)
_C.DATASET.ON_BAD_IMAGE = "error"  # ours: error or skip
_C.DATASET.CLASSNAMES = "dataset"  # ours: dataset or clinical wording
_C.DATASET.FLIP = True  # ours: False drops random flips

_C.DATALOADER = CN()
_C.DATALOADER.NUM_WORKERS = 4
_C.DATALOADER.K_TRANSFORMS = 1
_C.DATALOADER.RETURN_IMG0 = False
_C.DATALOADER.CACHE_IMAGES = False  # ours: memory-mapped decoded images
_C.DATALOADER.TRAIN_X = CN()
_C.DATALOADER.TRAIN_X.SAMPLER = "RandomSampler"
_C.DATALOADER.TRAIN_X.BATCH_SIZE = 32
_C.DATALOADER.TRAIN_X.N_DOMAIN = 0
_C.DATALOADER.TRAIN_X.N_INS = 16
_C.DATALOADER.TRAIN_U = CN()
_C.DATALOADER.TRAIN_U.SAME_AS_X = True
_C.DATALOADER.TRAIN_U.SAMPLER = "RandomSampler"
_C.DATALOADER.TRAIN_U.BATCH_SIZE = 32
_C.DATALOADER.TRAIN_U.N_DOMAIN = 0
_C.DATALOADER.TRAIN_U.N_INS = 16
_C.DATALOADER.TEST = CN()
_C.DATALOADER.TEST.SAMPLER = "SequentialSampler"
_C.DATALOADER.TEST.BATCH_SIZE = 32

_C.MODEL = CN()
_C.MODEL.INIT_WEIGHTS = ""
_C.MODEL.LLM = "meta-llama/Meta-Llama-3-8B"  # ours: whose representations the method reads
_C.MODEL.BACKBONE = CN()
_C.MODEL.BACKBONE.NAME = ""
_C.MODEL.BACKBONE.PRETRAINED = True
_C.MODEL.BACKBONE.WEIGHTS = ""  # ours: a checkpoint file, or 'random'
_C.MODEL.HEAD = CN()
_C.MODEL.HEAD.NAME = ""
_C.MODEL.HEAD.HIDDEN_LAYERS = ()
_C.MODEL.HEAD.ACTIVATION = "relu"
_C.MODEL.HEAD.BN = True
_C.MODEL.HEAD.DROPOUT = 0.0

_C.OPTIM = CN()
_C.OPTIM.NAME = "adam"
_C.OPTIM.LR = 0.0003
_C.OPTIM.WEIGHT_DECAY = 5e-4
_C.OPTIM.MOMENTUM = 0.9
_C.OPTIM.SGD_DAMPNING = 0.0
_C.OPTIM.SGD_NESTEROV = False
_C.OPTIM.RMSPROP_ALPHA = 0.99
_C.OPTIM.ADAM_BETA1 = 0.9
_C.OPTIM.ADAM_BETA2 = 0.999
_C.OPTIM.STAGED_LR = False
_C.OPTIM.NEW_LAYERS = ()
_C.OPTIM.BASE_LR_MULT = 0.1
_C.OPTIM.LR_SCHEDULER = "single_step"  # single_step, multi_step, cosine
_C.OPTIM.STEPSIZE = (-1,)
_C.OPTIM.GAMMA = 0.1
_C.OPTIM.MAX_EPOCH = 10
_C.OPTIM.BUDGET = ()  # ours: (epochs, batch size): their steps, the schedule of MAX_EPOCH laid over them
_C.OPTIM.WARMUP_EPOCH = -1
_C.OPTIM.WARMUP_TYPE = "linear"  # linear, constant
_C.OPTIM.WARMUP_CONS_LR = 1e-5
_C.OPTIM.WARMUP_MIN_LR = 1e-5
_C.OPTIM.WARMUP_RECOUNT = True

_C.TRAIN = CN()
_C.TRAIN.CHECKPOINT_FREQ = 0  # epochs; 0: only the last
_C.TRAIN.PRINT_FREQ = 10  # batches
_C.TRAIN.COUNT_ITER = "train_x"
_C.TRAIN.CACHE_FEATURES = True  # ours: keep a frozen image tower's features on disk, for all runs that need the same
_C.TRAIN.FEATURES_GIB = 20.0  # ours: what they may take together on this machine
_C.TRAIN.WANDB = ""  # ours: a project of Weights & Biases that curves and settings are sent to, too
_C.TRAIN.CHECKPOINTING = False  # ours: recompute the image tower's blocks in backward (memory for time)
_C.TRAIN.DETERMINISTIC = True  # ours: on a GPU, the operations that give the same bits each time
_C.TRAIN.COMPILE = False  # ours: torch.compile the towers' blocks (needs a C++ compiler)

_C.TEST = CN()
_C.TEST.EVALUATOR = "Classification"
_C.TEST.PER_CLASS_RESULT = False
_C.TEST.COMPUTE_CMAT = False
_C.TEST.NO_TEST = False
_C.TEST.SPLIT = "test"
_C.TEST.FINAL_MODEL = "last_step"  # last_step, best_val
_C.TEST.WHOLE_VAL = True  # ours: a training run keeps its probabilities on the whole val part, for calibration

_C.TRAINER = CN()
_C.TRAINER.NAME = ""

# Upstream's keys that nothing here reads: there for upstream's yaml files, and for plugins that read them.
UPSTREAM_ONLY = (
    "VERSION", "DATASET.TARGET_DOMAINS", "DATASET.NUM_LABELED", "DATASET.VAL_PERCENT", "DATASET.STL10_FOLD",
    "DATASET.CIFAR_C_TYPE", "DATASET.CIFAR_C_LEVEL", "DATASET.ALL_AS_UNLABELED", "DATALOADER.TRAIN_U.SAME_AS_X",
    "DATALOADER.TRAIN_U.SAMPLER", "DATALOADER.TRAIN_U.BATCH_SIZE", "DATALOADER.TRAIN_U.N_DOMAIN",
    "DATALOADER.TRAIN_U.N_INS", "MODEL.INIT_WEIGHTS", "MODEL.BACKBONE.PRETRAINED", "MODEL.HEAD.NAME",
    "MODEL.HEAD.HIDDEN_LAYERS", "MODEL.HEAD.ACTIVATION", "MODEL.HEAD.BN", "MODEL.HEAD.DROPOUT", "TRAIN.COUNT_ITER",
)  # fmt: skip
