"""Taggers with random weights, small enough for a CPU: saved as transformers saves them, served as a hub.

The same each time: the seed is fixed. What they say means nothing, but it is made of words and depends on the
picture.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from detectors import WORDS, bert_vocabulary
from server import FileServer

from samcli.weights import PICKLED_FILE, TAGGERS

SIDE = 64  # pixels
SPOKEN = ("cat", "dog", "car", "plant", "taxi", "van", "thing", "red", "blue")


def save_blip(folder: Path) -> Path:
    """Save a random BLIP in a folder, its weights both as safetensors and pickled. Returns it."""
    import torch
    from transformers import BertTokenizer, BlipConfig, BlipForConditionalGeneration

    torch.manual_seed(21)
    vocabulary = bert_vocabulary()
    vocabulary["[DEC]"] = len(vocabulary)
    layers = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {**layers, "vocab_size": len(vocabulary), "bos_token_id": vocabulary["[DEC]"], "sep_token_id": 102}
    text |= {"eos_token_id": 2, "pad_token_id": 0, "max_position_embeddings": 64}
    vision = {**layers, "image_size": SIDE, "patch_size": 16, "initializer_range": 0.3}
    model = BlipForConditionalGeneration(
        BlipConfig(text_config=text, vision_config=vision, projection_dim=16, image_text_hidden_size=16)
    ).eval()
    _spread(model)
    spoken = torch.full((len(vocabulary),), -30.0)
    spoken[[vocabulary[word] for word in SPOKEN]] = 0.0
    spoken[vocabulary["[SEP]"]] = 1.0
    with torch.no_grad():
        model.text_decoder.cls.predictions.bias.copy_(spoken)
        model.text_decoder.cls.predictions.decoder.bias.copy_(spoken)
    _save(model, folder)
    torch.save(model.state_dict(), folder / PICKLED_FILE)
    BertTokenizer(vocab=vocabulary, extra_special_tokens=["[DEC]"]).save_pretrained(folder)
    _picture(folder, "BlipImageProcessor")
    return folder


def save_florence(folder: Path) -> Path:
    """Save a random Florence-2 in a folder. Returns it."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import Florence2Config, Florence2ForConditionalGeneration, PreTrainedTokenizerFast

    torch.manual_seed(22)
    marks = ["<s>", "<pad>", "</s>", "<unk>"]
    places = [f"<loc_{i}>" for i in range(1000)]
    tokens = [*marks, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    merges = []
    for word in ("Ġ" + word for word in WORDS):
        merges += [(word[:i], word[i]) for i in range(1, len(word))]
    tokens += [first + second for first, second in merges]
    tokens = list(dict.fromkeys(tokens))
    vocabulary = {token: i for i, token in enumerate(tokens)}
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=list(dict.fromkeys(merges)), unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=made,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        extra_special_tokens={"image_token": "<image>"},
    )
    tokenizer.add_tokens(places)
    text = {
        "model_type": "bart",
        "vocab_size": len(tokenizer),
        "d_model": 32,
        "encoder_layers": 2,
        "decoder_layers": 2,
        "encoder_ffn_dim": 64,
        "decoder_ffn_dim": 64,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
        "max_position_embeddings": 300,
        "bos_token_id": 0,
        "pad_token_id": 1,
        "eos_token_id": 2,
        "decoder_start_token_id": 2,
        "forced_eos_token_id": 2,
    }
    vision = {
        "depths": (1, 1, 1, 1),
        "embed_dim": (8, 8, 16, 16),
        "num_heads": (1, 1, 2, 2),
        "num_groups": (1, 1, 2, 2),
        "window_size": 4,
        "projection_dim": 32,
    }
    image = tokenizer.convert_tokens_to_ids("<image>")
    model = Florence2ForConditionalGeneration(
        Florence2Config(text_config=text, vision_config=vision, image_token_id=image)
    ).eval()
    _spread(model)
    spoken = torch.full((len(tokenizer),), -60.0)
    spoken[[vocabulary["Ġ" + word] for word in SPOKEN]] = 0.0
    spoken[[tokenizer.convert_tokens_to_ids(place) for place in places[:40]]] = 0.0
    spoken[2] = 0.5
    model.generation_config.num_beams = 3
    model.generation_config.no_repeat_ngram_size = 3
    model.generation_config.forced_bos_token_id = 0
    model.generation_config.decoder_start_token_id = 2
    _favour(model, spoken)
    _save(model, folder)
    tokenizer.save_pretrained(folder)
    _picture(
        folder,
        "CLIPImageProcessor",
        crop_size={"height": SIDE, "width": SIDE},
        image_seq_length=(SIDE // 32) ** 2 + 1,
        image_mean=[0.485, 0.456, 0.406],
        image_std=[0.229, 0.224, 0.225],
        do_center_crop=False,
    )
    return folder


def save_siglip(folder: Path) -> Path:
    """Save a random SigLIP 2 for labels of at most 63 tokens in a folder. Returns it."""
    import torch
    from tokenizers import processors
    from transformers import Siglip2Tokenizer, SiglipConfig, SiglipModel

    torch.manual_seed(23)
    tokens = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *(f"<0x{i:02X}>" for i in range(256))]
    tokens += [chr(c) for c in range(ord("a"), ord("z") + 1)] + ["▁", ".", "猫", "犬"]
    tokenizer = Siglip2Tokenizer(
        vocab={token: i for i, token in enumerate(tokens)},
        merges=[],
        padding_side="right",
        model_input_names=["input_ids"],
    )
    tokenizer._tokenizer.post_processor = processors.TemplateProcessing(
        single="$A <eos>", special_tokens=[("<eos>", 1)]
    )
    layers = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = SiglipModel(
        SiglipConfig(
            text_config={**layers, "vocab_size": len(tokens), "max_position_embeddings": 64},
            vision_config={**layers, "image_size": SIDE, "patch_size": 16},
        )
    ).eval()
    _spread(model)
    with torch.no_grad():
        model.logit_scale.fill_(3.0)
        model.logit_bias.fill_(-2.0)
    _save(model, folder)
    tokenizer.save_pretrained(folder)
    _picture(folder, "SiglipImageProcessor", resample=2, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    return folder


KINDS: dict[str, Callable[[Path], Path]] = {
    "blip": save_blip,
    "florence-2": save_florence,
    "siglip": save_siglip,
}


def serve(server: FileServer, folder: Path, name: str) -> None:
    """Serve a folder's files as the Hub does those of the tagger called `name` in the table."""
    for file in TAGGERS[name].files:
        server.add_to_hub(TAGGERS[name].repository, file, (folder / file).read_bytes())


def _picture(folder: Path, processor: str, **settings: Any) -> None:
    text = {"image_processor_type": processor, "size": {"height": SIDE, "width": SIDE}, "resample": 3}
    text |= {"image_mean": [0.48145466, 0.4578275, 0.40821073]}
    text |= {"image_std": [0.26862954, 0.26130258, 0.27577711], **settings}
    (folder / "preprocessor_config.json").write_text(json.dumps(text))


def _favour(model: Any, bias: Any) -> None:
    """Let a sequence-to-sequence network say some tokens rather than others.

    Its last layer has no bias: a channel that is always on does its work.
    """
    import torch

    with torch.no_grad():
        norm = model.model.language_model.decoder.layers[-1].final_layer_norm
        norm.weight[-1] = 0.0
        norm.bias[-1] = 1.0
        model.lm_head.weight[:, -1] = bias


def _spread(model: Any) -> None:
    """Make answers depend on pictures: as weights are drawn, all look alike."""
    import torch

    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                scale = 1.0 if "patch_embed" in name or "position" not in name else 0.1
                parameter.add_(torch.randn_like(parameter) * 0.15 * scale)


def _save(model: Any, folder: Path) -> None:
    from transformers.utils import logging

    folder.mkdir(parents=True, exist_ok=True)
    logging.disable_progress_bar()
    model.save_pretrained(folder)
