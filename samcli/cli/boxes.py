"""The prompts of `predict --boxes`: boxes of another detector, found for the images they are of."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from samcli.cli import options
from samcli.cli.answers import Job
from samcli.cli.inputs import Inputs
from samcli.cli.prompts import Request
from samcli.cli.report import Report, plural
from samcli.formats.boxes import Detections, read_boxes
from samcli.formats.class_names import Labels, read_labels
from samcli.formats.coco import ids_of
from samcli.images import ImageFile


@dataclass(frozen=True)
class BoxJobs:
    """Images with their boxes, each made when it is its turn: a job for every image.

    lines: each box has a line of its own, and images without boxes have none. alone: one image was named.
    """

    inputs: Inputs
    boxes: Detections
    lines: bool
    alone: bool

    def __iter__(self) -> Iterator[Job]:
        jobs = (self.job(image) for image in self.inputs)
        return (job for job in jobs if job.requests or not self.lines)

    def job(self, image: ImageFile) -> Job:
        """The boxes of an image, a prompt each."""
        requests = (Request(box.id, image.path, detection=box) for box in self.boxes.of(image.relative))
        return Job(image, tuple(requests), alone=self.lines and not self.alone)

    def check(self, allow: Callable[[Job], None]) -> int | None:
        """Look through all images before any work, as `Inputs.check` does; how many there are."""
        return self.inputs.check(lambda image: allow(self.job(image)))


def box_jobs(
    report: Report,
    file: Path,
    inputs: Inputs,
    labels: str | None,
    like: Path | None,
    min_score: float | None,
    *,
    lines: bool,
) -> BoxJobs:
    """Read the boxes in `file` and find their images; says what is left out. Raises SamcliError.

    like: a COCO dataset whose numbers of images and categories the boxes have.
    """
    single = inputs.alone
    names = _names(labels)
    if like is not None:
        image_ids, category_ids = ids_of(like)
        names = Labels(str(like), ids={number: name for name, number in category_ids.items()})
    boxes = read_boxes(file, min_score=min_score, labels=names, image=single)
    if like is not None:
        boxes.of_dataset(image_ids)
    missing = boxes.match(image.relative for image in replace(inputs, shard=None))
    if missing.boxes:
        report.note(
            f"note: {count_boxes(missing.boxes)} of {plural(missing.images, 'images')} that "
            f"{'is' if missing.images == 1 else 'are'} not here left out, the first of {missing.first}"
        )
    if boxes.empty:
        report.note(f"note: {count_boxes(boxes.empty)} without area left out")
    if boxes.crowds:
        report.note(f"note: {plural(boxes.crowds, 'annotations')} of crowds left out")
    return BoxJobs(inputs, boxes, lines, single is not None)


def _names(labels: str | None) -> Labels | None:
    """What --labels says; here its file may also be one that detectors and datasets have."""
    if labels is None:
        return None
    if labels.startswith("@") and labels.lower().endswith((".yaml", ".yml", ".json")):
        return read_labels(Path(labels[1:]))
    return Labels("--labels", options.labels(labels))


def count_boxes(count: int) -> str:
    """A number of boxes."""
    return f"{count} {'box' if count == 1 else 'boxes'}"
