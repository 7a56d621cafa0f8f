"""Measures a network on a dev set while it is trained."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from samcli.weights import DEFAULT_MODEL

if TYPE_CHECKING:
    from samcli.models.sam import Sam
    from samcli.train.log import Check

CLICKS = 3


def checker(place: Path, model: str | None) -> Check:
    """What measures a network: mean IoU of the first click, of `CLICKS` clicks and of the true box.

    place: datasets as `samcli evaluate` takes them. model: whose settings the network has. Raises
    SamcliError.
    """
    import numpy as np

    from samcli.evaluate.prompts import answers
    from samcli.evaluate.truth import find_datasets, read_dataset
    from samcli.images import load
    from samcli.predictor import Predictor
    from samcli.weights import load_sam

    sets = [read_dataset(name, file) for name, file in find_datasets([place]).items()]
    spec = load_sam(DEFAULT_MODEL if model is None else model).spec

    def check(sam: Sam) -> dict[str, float]:
        predictor = Predictor(sam, spec, "", device=next(sam.parameters()).device)
        rows = []
        for photo in (photo for dataset in sets for photo in dataset.photos.values()):
            things = [thing for thing in photo.things if not thing.crowd]
            rows += answers(predictor, predictor.embed(load(photo.path)), things, 0, CLICKS)
        clicks = np.array([row["clicks"] for row in rows])
        return {
            "click": float(clicks[:, 0].mean()),
            f"clicks_{CLICKS}": float(clicks[:, -1].mean()),
            "box": float(np.mean([row["box"] for row in rows])),
        }

    return check
