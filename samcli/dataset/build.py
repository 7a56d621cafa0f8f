"""A dataset from the records of a run: read one by one, curated, and written."""

from __future__ import annotations

import hashlib
import json
import math
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from samcli.dataset.curate import Curated, Curation, Existing, curate
from samcli.dataset.duplicates import near_duplicates
from samcli.dataset.existing import Base, Known, open_base
from samcli.dataset.outputs import (
    ANNOTATIONS,
    LABELS,
    OVERLAYS,
    PARTS,
    TO_REVIEW,
    annotation_files,
    check_free,
    format_folder,
    made,
    making,
)
from samcli.dataset.overlays import Overlays
from samcli.dataset.summary import Split, Summary
from samcli.dataset.tally import Tally
from samcli.errors import SamcliError, StopError
from samcli.formats.atomic import clean_up, new_folder, write_bytes, write_text
from samcli.formats.coco import about, coco_annotation, coco_image
from samcli.formats.files import names, tree
from samcli.formats.png import encode_png
from samcli.formats.record import read_error, read_record
from samcli.formats.select import category_of, label_map, mask_of, record_of, score_of
from samcli.formats.table import FORMATS, Categories, Item, Photos, relative
from samcli.images import DATASET
from samcli.records import ImageRecord, MaskRecord, Run

RECORDS = "records"

_PROVENANCE = ("tagger", "detector", "model", "box_threshold", "text_threshold")


@dataclass(frozen=True)
class Plan:
    """What to make of records. Raises SamcliError for values that make no sense.

    base: COCO instances that proposals are added to. split: shares of train, val and, if three, test.
    formats: names in `samcli.formats.table.FORMATS`, each written into a folder of its name.
    skip_duplicates: of photos that look alike only the first is taken. label_json: also labels/, as the
    published Grounded-SAM demo writes them. overlays: also the photos with what was taken on them. labels:
    categories that come first, in this order; without any, those that the records were made with. photos:
    where they are, for formats and overlays.
    """

    curation: Curation = field(default_factory=Curation)
    base: Path | None = None
    split: tuple[float, ...] | None = None
    formats: tuple[str, ...] = ()
    skip_duplicates: bool = False
    label_json: bool = False
    overlays: bool = False
    labels: tuple[str, ...] = ()
    photos: Photos | None = None

    def __post_init__(self) -> None:
        if self.split is not None:
            fits = len(self.split) in (2, 3) and all(share > 0 for share in self.split)  # false for NaN too
            if not (fits and math.isclose(sum(self.split), 1, abs_tol=1e-6)):
                given = ",".join(f"{share:g}" for share in self.split)
                raise SamcliError(
                    f"the split {given} is not two or three shares above 0 that add up to 1, as 0.8,0.1,0.1"
                )
        for name in self.formats:
            if name not in FORMATS:
                raise SamcliError(f"the format {name!r} is unknown; known: {', '.join(FORMATS)}")
            if FORMATS[name].needs_photos and self.photos is None:
                raise SamcliError(
                    f"the format {name} needs the photos; give their folder with --images, or no pipe"
                )
            if self.formats.count(name) > 1:
                raise SamcliError(f"the format {name} is asked for twice; name it once")

    @property
    def parts(self) -> tuple[str, ...]:
        return PARTS[: len(self.split or ())]

    @property
    def outputs(self) -> set[str]:
        """Names of what is written below the place."""
        found = {ANNOTATIONS, *(f"{part}.json" for part in self.parts), *self.formats}
        if self.curation.confident is not None:
            found.add(TO_REVIEW)
        found |= {LABELS} if self.label_json else set()
        return found | {OVERLAYS} if self.overlays else found


def records_in(place: Path) -> Path:
    """Where the records of a run lie: those of a dataset apart from all that is made of them."""
    return place / RECORDS if (place / DATASET).is_file() and (place / RECORDS).is_dir() else place


def check(place: Path, plan: Plan) -> None:
    """Raise SamcliError when the plan cannot be carried out in `place`: before any model runs, if need be."""
    if plan.base is not None:
        if not plan.base.is_file():
            raise SamcliError(f"{plan.base} is not a file; give COCO instances, such as annotations.json")
        written = {(place / name).resolve() for name in plan.outputs | made(place)}
        own = plan.base.resolve()
        if written & {own, *own.parents}:
            raise SamcliError(f"{plan.base} would be replaced; give a copy that lies elsewhere")
    check_free(place, plan.outputs)


def build(place: Path, plan: Plan, note: Callable[[str], None]) -> Summary:
    """Write the dataset of `place`/records/ into `place`, in place of what an earlier build wrote.

    Every record is read twice, and never more than one is held. The same records and plan give the same
    bytes. What fails is a failure of its image. note: told what the user should know, a line each. Raises
    SamcliError when nothing can be built; what was there then stays.
    """
    check(place, plan)
    if not (place / RECORDS).is_dir():
        raise SamcliError(f"{place} holds no {RECORDS}/; give a folder that samcli annotate wrote")
    clean_up(place)
    survey = _survey(place / RECORDS)
    for name in sorted(plan.curation.class_scores.keys() - survey.categories):
        note(f"nothing was proposed as {name}, which has a least score of its own")
    with ExitStack() as stack:
        base = None
        if plan.base is not None:
            base = stack.enter_context(open_base(plan.base))
            base.match(survey.paths)
            if base.only_boxes:
                count = f"{base.only_boxes} annotations" if base.only_boxes > 1 else "an annotation"
                note(f"{plan.base} has {count} without a mask, kept; in other formats boxes are left out")
        stack.enter_context(making(place, plan.outputs))
        return _Builder(place, plan, note, survey, base).build()


# What the records are of


class _Survey(NamedTuple):
    """What is known of all records before the first is used.

    paths: of the photos. categories: of all proposals. duplicates, failures: as in `Summary`. damaged: names
    of records that cannot be used. settings: by their text.
    """

    paths: Sequence[str]
    categories: set[str]
    duplicates: tuple[tuple[str, ...], ...]
    failures: list[tuple[str, str]]
    damaged: set[str]
    settings: Mapping[str, Mapping[str, Any]]


def _survey(records: Path) -> _Survey:
    paths: dict[str, None] = {}
    hashed: list[str] = []
    hashes = array("Q")
    found = _Survey((), set(), (), [], set(), {})
    settings: dict[str, Mapping[str, Any]] = {}
    for name, record in _records(records, found.failures):
        if isinstance(record, SamcliError):
            found.failures.append((name, str(record)))
            found.damaged.add(name)
            continue
        if record.file_name in paths:
            second = f"{records / name}.json is a second record of this photo; remove one"
            found.failures.append((record.file_name, second))
            found.damaged.add(name)
            continue
        paths[record.file_name] = None
        found.categories.update(category_of(mask) for mask in record.annotations)
        if record.notes.phash is not None:
            hashed.append(record.file_name)
            hashes.append(int(record.notes.phash, 16))
        if record.run is not None:
            head = record.run.to_json()
            settings.setdefault(json.dumps(head, sort_keys=True), head)
    groups = near_duplicates(hashed, hashes)
    return found._replace(paths=list(paths), duplicates=groups, settings=settings)


def _records(
    records: Path, failures: list[tuple[str, str]] | None = None
) -> Iterator[tuple[str, ImageRecord | SamcliError]]:
    """Each record, or why it is none, with its path below the folder and without .json.

    Of the images that failed in the run, paths and reasons go to `failures`.
    """
    for path, name in tree(records, (".json",)):
        if name.name.endswith(".error") and (failed := read_error(path)):
            if failures is not None:
                failures.append((failed.path, failed.reason))
            continue
        try:
            record = read_record(path)
            relative(record.file_name)
            yield str(name), record
        except SamcliError as error:
            yield str(name), error


# Writing


class _Builder:
    """Writes one dataset."""

    def __init__(
        self, place: Path, plan: Plan, note: Callable[[str], None], survey: _Survey, base: Base | None
    ) -> None:
        self.place = place
        self.plan = plan
        self.note = note
        self.survey = survey
        self.base = base
        self.failures = list(survey.failures)
        self.first = {path: group[0] for group in survey.duplicates for path in group}
        self.numbers = _numbers(plan.labels or _labels(survey), survey.categories, base)
        self.tally = Tally(self.numbers)
        self.next_image = (base.last_image if base else 0) + 1
        self.next_annotation = (base.last_annotation if base else 0) + 1
        self.ids: dict[str, int] = {}  # of the image that is being written, for formats

    def build(self) -> Summary:
        plan, base = self.plan, self.base
        info = base.info if base else about("annotated by samcli")
        licenses = base.licenses if base else []
        review = plan.curation.confident is not None
        with ExitStack() as stack:
            self.out = stack.enter_context(annotation_files(self.place, plan.parts, review, info, licenses))
            self.came = stack.enter_context(names())
            self.labels = (
                stack.enter_context(new_folder(self.place / LABELS, ours=True)) if plan.label_json else None
            )
            self.overlays = Overlays(self.place / OVERLAYS, plan.photos) if plan.overlays else None
            self.writers = {
                name: stack.enter_context(
                    format_folder(
                        self.place, FORMATS[name], plan.parts, plan.photos, self.numbers, self.ids, self.note
                    )
                )
                for name in plan.formats
            }
            if base:
                self._existing(base)
            known = set(self.survey.paths)
            for name, record in _records(self.place / RECORDS):
                # What came since the survey is for the next build.
                if name in self.survey.damaged:
                    continue
                if isinstance(record, SamcliError):
                    self.failures.append((name, str(record)))
                elif record.file_name in known:
                    self._image(PurePosixPath(name), record)
            self.out.finish(self._categories(), base.more if base else {}, self.next_annotation)
            if self.overlays:
                self.overlays.finish()
                if self.overlays.missing:
                    count = self.overlays.missing
                    what = "the photo of one image is" if count == 1 else f"the photos of {count} images are"
                    self.note(f"{what} not at hand, so not drawn; --rebuild with --images DIR draws them")
        return Summary(
            images=self.out.whole.images,
            empty=self.tally.empty,
            classes=self.tally.classes(),
            scores=tuple(self.tally.scores),
            review_scores=tuple(self.tally.review_scores),
            sizes=tuple(self.tally.sizes),
            dropped=self.tally.dropped(),
            duplicates=self.survey.duplicates,
            skipped=plan.skip_duplicates,
            failures=tuple(sorted(set(self.failures))),
            splits=tuple(Split(part, out.images, out.annotations) for part, out in self.out.parts.items()),
            settings=tuple(self.survey.settings.values()),
        )

    def _existing(self, base: Base) -> None:
        """All of the base as it is; into other formats only images that have no record, others follow."""
        parts: dict[int, str] = {}
        for image, path, has_record in base.images():
            part = parts[image["id"]] = self._part(path)
            self.out.image(image, part)
            self.tally.existing(base.sides(image))
            if not has_record and (self.writers or self.labels):
                try:
                    name = relative(path)
                    size, known = base.known(image["id"])
                    item = Item(name.with_suffix(""), record_of(name, size, self._masks(known, ())))
                except SamcliError as error:
                    self.failures.append((path, str(error)))
                else:
                    self._write(item, image["id"], part)
        for annotation in base.annotations():
            self.out.annotation(annotation, parts[annotation["image_id"]])

    def _image(self, name: PurePosixPath, record: ImageRecord) -> None:
        """What a record gives."""
        path, base = record.file_name, self.base
        number = base.number(path) if base else None
        if number is None and self.plan.skip_duplicates and self.first.get(path, path) != path:
            return
        try:
            known: list[Known] = []
            if base and number is not None:
                _, known = base.known(number, (record.height, record.width))
            curated = self._curate(record, known)
        except SamcliError as error:
            self.failures.append((path, str(error)))
            return
        part = self._part(path)
        if base and number is not None:
            image = base.image(number)
            own = number
            before = [name for name, _ in base.sides(image)]
        else:
            own, before = self.next_image, []
            self.next_image += 1
            said = record.notes.to_json()
            image = coco_image(record, own) | {key: said[key] for key in ("caption", "tags") if key in said}
            self.out.image(image, part)
            self.tally.existing(())
        self.tally.proposals(
            path,
            record.width * record.height,
            curated.accepted,
            curated.to_review,
            curated.dropped,
            before,
        )
        provenance = _provenance(record.run)
        for mask in curated.accepted:
            self.out.annotation(self._annotation(mask, self.next_annotation, own, provenance), part)
            self.next_annotation += 1
        if self.overlays:
            self.overlays.add(name, record, curated)
        self.out.review(image, [self._annotation(mask, 0, own, provenance) for mask in curated.to_review])
        if self.writers or self.labels:
            masks = self._masks(known, curated.accepted)
            self._write(Item(name, replace(record, annotations=masks)), own, part)

    def _curate(self, record: ImageRecord, known: Sequence[Known]) -> Curated:
        if any(category_of(mask) not in self.numbers for mask in record.annotations):
            raise SamcliError("its record changed meanwhile; build the dataset again with --rebuild")
        existing = [Existing(one.segmentation, one.category, one.crowd) for one in known]
        return curate(record, self.plan.curation, self.numbers, existing)

    def _annotation(
        self, mask: MaskRecord, number: int, image: int, provenance: Mapping[str, Any]
    ) -> dict[str, Any]:
        entry = coco_annotation(mask, number, image, self.numbers[category_of(mask)])
        score = score_of(mask)
        return {**entry, **({} if score is None else {"score": score}), "provenance": provenance}

    def _masks(self, known: Sequence[Known], added: Sequence[MaskRecord]) -> tuple[MaskRecord, ...]:
        """The masks of an image for other formats, numbered as in annotations.json; crowds are none."""
        before = (
            mask_of(one.segmentation, category=one.category)
            for one in known
            if not (one.crowd or one.only_box)
        )
        return tuple(
            replace(mask, id=i, category=category_of(mask), category_id=self.numbers[category_of(mask)])
            for i, mask in enumerate(chain(before, added), start=1)
        )

    def _write(self, item: Item, number: int, part: str) -> None:
        """An image in other formats. What one of them cannot write is a failure of the image."""
        path = item.record.file_name
        if self.base and not self.came.add(str(item.name)):
            self.failures.append(
                (path, f"another image is called {item.name}, too, but for its ending; rename one")
            )
            return
        self.ids.clear()
        self.ids[path] = number
        for what, write in chain(
            ((name, writers[part]) for name, writers in self.writers.items()),
            [("label.json", self._write_label)] if self.labels else [],
        ):
            try:
                write(item)
            except StopError:
                raise
            except SamcliError as error:
                self.failures.append((path, f"{what}: {error}"))

    def _write_label(self, item: Item) -> None:
        """`labels/<name>.label.json`, as the published Grounded-SAM demo has it, and the map it is of."""
        assert self.labels is not None
        record = item.record
        said = record.notes
        mask: list[dict[str, Any]] = [{"value": 0, "label": "background"}]
        for value, one in enumerate(record.annotations, start=1):
            x, y, width, height = one.bbox
            score = score_of(one)
            logit = {} if score is None else {"logit": score}
            box = {"box": [x, y, x + width, y + height]}
            mask.append({"value": value, "label": category_of(one), **logit, **box})
        about_it = {"tags": ", ".join(tag.word for tag in said.tags)}
        if said.caption is not None:
            about_it = {"caption": said.caption}
        labels = label_map(record.annotations, (record.height, record.width), "area")
        write_bytes(self.labels / f"{item.name}.mask.png", encode_png(labels))
        text = json.dumps({**about_it, "mask": mask}, ensure_ascii=False, allow_nan=False)
        write_text(self.labels / f"{item.name}.label.json", text + "\n")

    def _part(self, path: str) -> str:
        """The part of the dataset that a photo goes to, the same for all that look like it; "" without."""
        first = self.first.get(path, path).encode("utf-8", "backslashreplace")
        place = int.from_bytes(hashlib.sha256(first).digest()[:8], "big") / 2**64
        for part, share in zip(self.plan.parts, self.plan.split or (), strict=True):
            if place < share:
                return part
            place -= share
        return self.plan.parts[-1] if self.plan.parts else ""

    def _categories(self) -> list[dict[str, Any]]:
        """Those of the base as they are, then the others."""
        if self.base is None:
            return Categories(self.numbers).to_json()
        new = {name: n for name, n in self.numbers.items() if name not in self.base.numbers}
        return self.base.categories + Categories(new).to_json()


def _numbers(labels: Sequence[str], proposed: set[str], base: Base | None) -> dict[str, int]:
    """Numbers of categories: those of the base, then the labels in their order, then the others by name.

    All that were proposed are numbered, taken or not, so that other scores do not change the numbers.
    """
    numbers = dict(base.numbers) if base else {}
    last = max((category["id"] for category in base.categories), default=0) if base else 0
    for name in chain(labels, sorted(proposed)):
        if name not in numbers:
            last += 1
            numbers[name] = last
    return numbers


def _labels(survey: _Survey) -> list[str]:
    """The labels that the records were made with, in their order."""
    lists = (head["config"].get("labels") for head in survey.settings.values())
    return [name for labels in lists if isinstance(labels, list) for name in labels if isinstance(name, str)]


def _provenance(run: Run | None) -> dict[str, Any]:
    """Where an annotation is from: by whom, and with which settings."""
    if run is None:
        return {"source": "samcli"}
    known = {**run.config, "model": run.model}
    return {"source": "samcli", **{key: known[key] for key in _PROVENANCE if known.get(key) is not None}}
