"""How well a model answers prompts: clicks and boxes made from the truth (SAM, section 7.1, appendix D.1)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from samcli.evaluate.metrics import deepest, iou, next_click, noised_box, random_click
from samcli.evaluate.truth import Thing
from samcli.masks import decode_rle, mask_bbox
from samcli.records import Box, Prompt

if TYPE_CHECKING:
    from samcli.predictor import Embedding, Prediction, Predictor

CLICKS = 9


def answers(
    predictor: Predictor, embedding: Embedding, things: Sequence[Thing], seed: int, count: int = CLICKS
) -> list[dict[str, Any]]:
    """IoUs of what a model answers for each of some things of an image.

    clicks: after each of `count` clicks; the first one at the middle, answered by the best of three masks by
    predicted IoU, the others at the middle of the largest error, with the logits before them as mask prompt.
    single: the first click's single mask. oracle: the best of the first three. predicted: their best
    predicted IoU. random, random_oracle: for a click anywhere on the thing. box, noised_box: for its box.
    """
    seen = [_Seen.of(thing) for thing in things]
    rng = [np.random.default_rng((seed, thing.id)) for thing in things]
    rows: list[dict[str, Any]] = [{"id": thing.id, "area": thing.area} for thing in things]

    def ask(prompts: Sequence[Prompt], multimask: bool) -> Iterator[tuple[int, Prediction, list[float]]]:
        answered = predictor.predict_each(embedding, prompts, multimask=multimask)
        for i, answer in enumerate(answered):
            truth, counted = seen[i].bits()
            yield i, answer, [iou(mask, truth, counted) for mask in answer.masks]

    points = [[deepest(one.bits()[0])[:2]] for one in seen]
    labels = [[1] for _ in seen]
    for i, _, (single,) in ask([Prompt(p) for p in points], multimask=False):
        rows[i]["single"] = single
    logits: list[NDArray[np.float32]] = [np.zeros((0, 0), np.float32)] * len(seen)
    for number in range(count):
        first = number == 0
        prompts = [
            Prompt(p, tags, mask=None if first else mask)
            for p, tags, mask in zip(points, labels, logits, strict=True)
        ]
        for i, answer, each in ask(prompts, multimask=first):
            rows[i].setdefault("clicks", []).append(each[0])
            if first:
                rows[i] |= {"oracle": max(each), "predicted": float(answer.predicted_iou[0])}
            truth, counted = seen[i].bits()
            logits[i] = answer.low_res_logits[0]
            if number < count - 1:
                x, y, tag = next_click(answer.masks[0], truth, counted)
                points[i], labels[i] = [*points[i], (x, y)], [*labels[i], tag]
    anywhere = [Prompt([random_click(one.bits()[0], r)]) for one, r in zip(seen, rng, strict=True)]
    for i, _, each in ask(anywhere, multimask=True):
        rows[i] |= {"random": each[0], "random_oracle": max(each)}
    boxes = [one.box for one in seen]
    size = embedding.original_size
    noised = [noised_box(box, size, r) for box, r in zip(boxes, rng, strict=True)]
    for name, given in (("box", boxes), ("noised_box", noised)):
        for i, _, (alone,) in ask([Prompt(box=box) for box in given], multimask=False):
            rows[i][name] = alone
    return rows


class _Seen(NamedTuple):
    """A thing, its bits made when they are needed: of many there may be too many."""

    thing: Thing
    box: Box

    @classmethod
    def of(cls, thing: Thing) -> _Seen:
        x, y, width, height = mask_bbox(decode_rle(thing.segmentation))
        return cls(thing, Box(x, y, x + width, y + height))

    def bits(self) -> tuple[NDArray[np.bool_], NDArray[np.bool_] | None]:
        """The (H, W) mask, and which pixels count; None for all."""
        ignore = self.thing.ignore
        return decode_rle(self.thing.segmentation), None if ignore is None else ~decode_rle(ignore)
