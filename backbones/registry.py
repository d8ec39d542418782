"""The names people use for backbones, one row each: architecture, where its weights are, what images it expects."""

from dataclasses import dataclass, field

OPENAI_MEAN, OPENAI_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
SIGLIP = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5), "resize_mode": "squash"}
BIOMED_BERT = "microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract"


@dataclass(frozen=True)
class Row:
    """One backbone.

    arch: name of an open_clip configuration, or such a configuration itself.
    tag: open_clip's pretrained tag; or
    hub: (repository, file(s)) on the Hugging Face hub, `dataset:` before the repository where it is one; or
    folder: configuration, preprocessing and weights in backbones/<folder>.
    layout: "state" (one file holds all weights; of several hub files the first that exists is taken) or "pmc_clip"
        (all three files are needed: image tower, text tower, projection).
    bert: fields of the BERT configuration, so that the architecture needs no hub.
    own_config: trained weights are built as the open_clip_config.json beside them says; `arch` is for random ones.
    """

    about: str
    arch: object = None
    tag: str = ""
    hub: tuple = ()
    folder: str = ""
    layout: str = "state"
    bert: dict = None
    mean: tuple = OPENAI_MEAN
    std: tuple = OPENAI_STD
    interpolation: str = "bicubic"
    resize_mode: str = "shortest"
    own_config: bool = False
    extra: dict = field(default_factory=dict)  # tensors that the published files lack: {key: value}


def _openai(config, about):
    return Row(about, arch=config, tag="openai")


def _bert_text(**more):
    return {"hf_model_name": BIOMED_BERT, "hf_tokenizer_name": BIOMED_BERT, "hf_proj_type": "mlp",
            "hf_pooler_type": "cls_last_hidden_state_pooler", "context_length": 256, **more}  # fmt: skip


OPEN_CLIP_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")  # what open_clip itself uploads
BIOMED_CLIP = {
    "embed_dim": 512,
    "vision_cfg": {"timm_model_name": "vit_base_patch16_224", "timm_pool": "", "timm_proj": "linear",
                   "image_size": 224},
    "text_cfg": _bert_text(),
}  # fmt: skip
BERT_BASE = {"vocab_size": 30522, "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12,
             "intermediate_size": 3072, "max_position_embeddings": 512, "pad_token_id": 0}  # fmt: skip

ROWS = {
    "RN50": _openai("RN50-quickgelu", "OpenAI CLIP, ResNet-50 (no visual prompts)"),
    "RN101": _openai("RN101-quickgelu", "OpenAI CLIP, ResNet-101 (no visual prompts)"),
    "ViT-B/32": _openai("ViT-B-32-quickgelu", "OpenAI CLIP, ViT-B/32"),
    "ViT-B/16": _openai("ViT-B-16-quickgelu", "OpenAI CLIP, ViT-B/16: the papers' backbone"),
    "ViT-L/14": _openai("ViT-L-14-quickgelu", "OpenAI CLIP, ViT-L/14"),
    "ViT-L/14@336px": _openai("ViT-L-14-336-quickgelu", "OpenAI CLIP, ViT-L/14 at 336 pixels"),
    "BiomedCLIP": Row(
        "PubMedBERT text tower, timm ViT-B/16, 15 M biomedical figures",
        arch=BIOMED_CLIP,
        hub=("microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224", OPEN_CLIP_FILES),
        bert=BERT_BASE,
    ),
    "PubMedCLIP": Row(
        "OpenAI's ViT-B/32 fine-tuned on ROCO",
        arch="ViT-B-32-quickgelu",
        hub=("sarahESL/PubMedCLIP", ("PubMedCLIP_ViT32.pth",)),
    ),
    "PMC-CLIP": Row(
        "BiomedBERT text tower (pooler output), ResNet-50, PMC-OA (no visual prompts)",
        arch={
            "embed_dim": 768,
            "vision_cfg": {"layers": [3, 4, 6, 3], "width": 64, "head_width": 256, "image_size": 224},
            "text_cfg": _bert_text(hf_pooler_type="cls_pooler", hf_proj_type="linear", context_length=77),
        },
        hub=("dataset:axiong/pmc_oa",
             ("image_encoder(resnet50).pth", "text_encoder.pth", "text_projection_layer.pth")),
        layout="pmc_clip",
        bert=BERT_BASE,
        extra={"logit_scale": 4.4292},
    ),
    "UniMedCLIP": Row(
        "BiomedBERT text tower, quick-GELU ViT-B/16, six modalities",
        arch={
            "embed_dim": 512,
            "quick_gelu": True,
            "vision_cfg": {"image_size": 224, "layers": 12, "width": 768, "patch_size": 16},
            "text_cfg": _bert_text(),
        },
        hub=("UzairK/unimed-clip-vit-b16", ("unimed_clip_vit_b16.pt",)),
        bert=BERT_BASE,
    ),
    "QuiltNet-B-32": Row(
        "ViT-B/32 on Quilt-1M's histopathology",
        arch="ViT-B-32",
        hub=("wisdomik/QuiltNet-B-32", OPEN_CLIP_FILES),
    ),
    "QuiltNet-B-16": Row(
        "ViT-B/16 on Quilt-1M's histopathology",
        arch="ViT-B-16",
        hub=("wisdomik/QuiltNet-B-16", OPEN_CLIP_FILES),
    ),
    "QuiltNet-B-16-PMB": Row(
        "BiomedCLIP's architecture on Quilt-1M's histopathology",
        arch=BIOMED_CLIP,
        hub=("wisdomik/QuiltNet-B-16-PMB", OPEN_CLIP_FILES),
        bert=BERT_BASE,
    ),
    "MedPMC-CLIP": Row(
        "ViT-L/14, 11 M curated medical figures of PubMed Central",
        arch="ViT-L-14",
        hub=("Yale-BIDS-Chen/medpmc-clip-l-14_jun24_v1", ("open_clip_pytorch_model.safetensors",)),
    ),
    "DermLIP": Row(
        "ViT-B/16 on Derm1M's skin images",
        arch="ViT-B-16",
        hub=("redlessone/DermLIP_ViT-B-16", OPEN_CLIP_FILES),
        own_config=True,  # trained from OpenAI's weights: whether with their activation, only its configuration says
    ),
    "SigLIP": Row("SigLIP ViT-B/16 (WebLI)", arch="ViT-B-16-SigLIP", tag="webli", **SIGLIP),
    "SigLIP2": Row("SigLIP 2 ViT-B/16 (WebLI)", arch="ViT-B-16-SigLIP2", tag="webli", **SIGLIP),
    "MetaCLIP2": Row(
        "MetaCLIP 2 ViT-H/14, 300 languages (a token table of 900 000 words)",
        arch="ViT-H-14-worldwide-quickgelu",
        tag="metaclip2_worldwide",
    ),
    "demo": Row("the embedded demo backbone, 64 pixels, for the phantom data only", folder="demo"),
}  # fmt: skip


def known():
    """[(name, one line)] of the named backbones, and the forms other names may take."""
    forms = [
        ("MODEL::TAG", "any open_clip model and pretrained tag, e.g. ViT-B-32::laion2b_s34b_b79k"),
        ("MODEL::FILE", "an open_clip architecture with a checkpoint of yours, e.g. ViT-B-16-quickgelu::/data/x.pt"),
        ("hf-hub:ORG/REPO", "an open_clip model on the Hugging Face hub"),
        ("local-dir:PATH", "a folder that open_clip wrote for the hub"),
        ("FILE", "a checkpoint in OpenAI's layout, or one with its open_clip_config.json beside it"),
    ]
    return [(name, row.about) for name, row in ROWS.items()] + forms
