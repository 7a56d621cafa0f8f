"""Detectors with random weights, small enough for a CPU: saved as transformers saves them, served as a hub.

The same each time: the seed is fixed. What they find means nothing, but it depends on picture and phrases.
"""

from __future__ import annotations

import json
import string
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from server import FileServer

from samcli.weights import DETECTORS

WORDS = ("a", "cat", "dog", "red", "blue", "car", "green", "thing", "fire", "taxi", "plant", "tri", "van")
SHORT_SIDE = 128  # pixels; the real ones take 800


def bert_vocabulary() -> dict[str, int]:
    """Of 1,100 tokens with BERT's ids where Grounding DINO's code has them fixed; spells every word."""
    known = {
        "[PAD]": 0,
        "[UNK]": 100,
        "[CLS]": 101,
        "[SEP]": 102,
        "[MASK]": 103,
        ",": 1010,
        ".": 1012,
        "?": 1029,
    }
    known["-"], known["_"], known["'"] = 1011, 1035, 1005
    letters = string.ascii_lowercase + string.digits
    free = (i for i in range(200, 1000))
    for token in dict.fromkeys((*letters, *(f"##{c}" for c in letters), *WORDS, "##cycle", "##van", "##hy")):
        known[token] = next(free)
    taken = set(known.values())
    return known | {f"[unused{i}]": i for i in range(1100) if i not in taken}


def save_grounding_dino(folder: Path, *, mm: bool = False, **config: Any) -> Path:
    """Save a random (MM-)Grounding-DINO in a folder; `config` changes fields. Returns it."""
    import torch
    from transformers import (
        BertConfig,
        BertTokenizer,
        GroundingDinoConfig,
        GroundingDinoForObjectDetection,
        MMGroundingDinoConfig,
        MMGroundingDinoForObjectDetection,
        SwinConfig,
    )

    torch.manual_seed(11)
    vocabulary = bert_vocabulary()
    sizes = {
        "backbone_config": SwinConfig(
            image_size=SHORT_SIDE,
            embed_dim=8,
            depths=[1, 1, 1, 1],
            num_heads=[1, 2, 2, 4],
            window_size=4,
            out_indices=[2, 3, 4],
        ),
        "text_config": BertConfig(
            vocab_size=len(vocabulary),
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=64,
        ),
        "d_model": 32,
        "encoder_layers": 2,
        "encoder_ffn_dim": 64,
        "encoder_attention_heads": 4,
        "decoder_layers": 2,
        "decoder_ffn_dim": 64,
        "decoder_attention_heads": 4,
        "num_queries": 30,
    }
    settings = MMGroundingDinoConfig if mm else GroundingDinoConfig
    network = MMGroundingDinoForObjectDetection if mm else GroundingDinoForObjectDetection
    model = network(settings(**{**sizes, **config})).eval()
    _spread(model, mm)
    _save(model, folder)
    BertTokenizer(vocab=vocabulary).save_pretrained(folder)
    picture = {
        "image_processor_type": "GroundingDinoImageProcessor",
        "size": {"shortest_edge": SHORT_SIDE, "longest_edge": SHORT_SIDE * 5 // 3},
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(picture))
    return folder


def save_owlv2(folder: Path) -> Path:
    """Save a random OWLv2 for pictures of 96 pixels as a folder. Returns it."""
    import torch
    from transformers import Owlv2Config, Owlv2ForObjectDetection

    torch.manual_seed(12)
    tokens = [*string.punctuation, *string.ascii_lowercase, *string.digits]  # "!" is first: it pads, as id 0
    vocabulary = {token: i for i, token in enumerate((*tokens, *(f"{t}</w>" for t in tokens)))}
    merges = [
        f"{word[:i]} {word[i]}{'</w>' if i == len(word) - 1 else ''}"
        for word in ("photo", "of", *WORDS)
        for i in range(1, len(word))
    ]
    for merge in dict.fromkeys(merges):
        vocabulary.setdefault(merge.replace(" ", ""), len(vocabulary))
    vocabulary["<|startoftext|>"], vocabulary["<|endoftext|>"] = len(vocabulary), len(vocabulary) + 1
    layers = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = Owlv2ForObjectDetection(
        Owlv2Config(
            text_config={
                **layers,
                "vocab_size": len(vocabulary),
                "max_position_embeddings": 16,
                "bos_token_id": vocabulary["<|startoftext|>"],
                "eos_token_id": vocabulary["<|endoftext|>"],
                "pad_token_id": 0,
            },
            vision_config={**layers, "image_size": 96, "patch_size": 16},
            projection_dim=32,
        )
    ).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.startswith(("box_head", "class_head")):
                parameter.mul_(0.2)  # as they are drawn, answers are 0 or 1
    _save(model, folder)
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(dict.fromkeys(merges)) + "\n")
    settings = {"tokenizer_class": "CLIPTokenizer", "pad_token": "!", "model_max_length": 16}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    picture = {"image_processor_type": "Owlv2ImageProcessor", "size": {"height": 96, "width": 96}}
    (folder / "preprocessor_config.json").write_text(json.dumps(picture))
    return folder


KINDS: dict[str, Callable[[Path], Path]] = {
    "grounding-dino": save_grounding_dino,
    "mm-grounding-dino": partial(save_grounding_dino, mm=True),
    "owlv2": save_owlv2,
}


def serve(server: FileServer, folder: Path, name: str, files: Sequence[str] | None = None) -> None:
    """Serve a folder's files as the Hub does those of the detector called `name` in the table."""
    for file in files or DETECTORS[name].files:
        server.add_to_hub(DETECTORS[name].repository, file, (folder / file).read_bytes())


def _spread(model: Any, mm: bool) -> None:
    """Make answers differ: as weights are drawn, one token is the best of all queries, near 1 or near 0."""
    import torch

    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1 or name.endswith("bias"):
                parameter.add_(torch.randn_like(parameter) * 0.1)
        if mm:
            for head in model.class_embed:
                head.bias.zero_()
        model.model.decoder.layer_norm.weight.mul_(0.9 if mm else 0.3)
        model.model.decoder.layer_norm.bias.zero_()


def _save(model: Any, folder: Path) -> None:
    from transformers.utils import logging

    folder.mkdir(parents=True, exist_ok=True)
    logging.disable_progress_bar()
    model.save_pretrained(folder)
