"""Speed of a model on this machine: encoder, one prompt, everything mode on a folder's photos. Prints one
JSON line.

    python bench/embedded.py examples/ [-m MODEL] [--threads 2]

Medians after a warm-up; the model is loaded already.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

import samcli
from samcli import images

ROUNDS = 15


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("-m", "--model", default="tiny")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    predictor = samcli.load(args.model, device="cpu", threads=args.threads)
    photos = [images.load(item.path) for item in images.list_images([args.folder])]
    side = predictor.sam.image_size
    pixels = torch.zeros(1, 3, side, side)
    with torch.inference_mode():
        encoder = median(lambda: predictor.sam.encode_image(pixels))
    embedding = predictor.embed(photos[0])
    height, width = embedding.original_size
    prompt = samcli.Prompt(points=[(width / 2, height / 2)])
    one = median(lambda: predictor.predict(embedding, prompt))
    seconds = []
    for photo in photos:
        began = time.perf_counter()
        samcli.automask(predictor, photo)
        seconds.append(time.perf_counter() - began)
    line = {
        "model": args.model,
        "threads": args.threads,
        "input_side": side,
        "encoder_ms": round(1000 * encoder, 1),
        "predict_ms": round(1000 * one, 1),
        "automask_s": [round(s, 2) for s in seconds],
    }
    print(json.dumps(line))


def median(call: Callable[[], object]) -> float:
    """Median seconds of `call`, the first three calls left out."""
    times = []
    for _ in range(ROUNDS + 3):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return statistics.median(times[3:])


if __name__ == "__main__":
    main()
