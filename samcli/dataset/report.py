"""The report of a dataset: one page that needs nothing but itself, and its plots and samples as PNG.

The page's charts are HTML and inline SVG, not the plots: so they take the page's colours, light or dark, fit
a phone, and have their numbers beside them for who cannot see them. There is no program in it.
"""

from __future__ import annotations

import base64
import hashlib
import html
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from samcli.dataset.outputs import REPORT
from samcli.dataset.plots import SOFTWARE, plots
from samcli.dataset.samples import GROUPS, MEMBERS, Pictures, Shot, class_sheet, draw
from samcli.dataset.summary import BINS, ClassSummary, Summary
from samcli.errors import SamcliError
from samcli.formats.atomic import clean_up, write_bytes
from samcli.formats.table import Photos
from samcli.viz.colors import colors, label_index
from samcli.viz.gallery import score_of

RULES = {
    "score": "Its score is below the least that its class, or any, must have.",
    "area": "It has fewer or more pixels than allowed.",
    "covered": "An annotation that was there before covers it.",
    "duplicates": "It is nearly the same mask as a better one of its class.",
    "contained": "It lies within a better one of its class, such as a head within a person.",
    "conflicts": "It is nearly the same mask as a better one of another class; one mask has one label.",
}
"""Why proposals are left out, in plain words, by the reasons of `samcli.dataset.curate`."""

KINDS = (("accepted", "Accepted"), ("existing", "Existing"), ("to_review", "To review"))

ROWS = 40  # classes that are seen at once; the table of the others opens
FAILURES = 500  # that are listed, as groups of photos that look alike are; the rest is counted
SETTINGS = 8
NAMES = 20  # of photos in a group without pictures
LONGEST = 160  # letters of a path on the page
LONGEST_LABEL = 80
LONGEST_REASON = 400
LONGEST_SLUG = 80  # bytes
FEW = 3  # samples of a class, up to which classes stand side by side

_RESERVED = {"con", "prn", "aux", "nul", *(f"{port}{i}" for port in ("com", "lpt") for i in range(10))}
_JOINERS = "\u200c\u200d"  # letters of Persian and of India, and pictures of families, need them


def write_report(place: Path, summary: Summary, photos: Photos | None) -> tuple[Path, ...]:
    """Write `report.html` and `report/` into a dataset's folder; returns the files.

    photos: that the masks are drawn on; where they are None, or one is not there, the masks are shown alone.
    Sheets of classes that an earlier report left in `report/samples/` are removed. The same summary and
    photos give the same bytes. Raises SamcliError for a file that cannot be written.
    """
    folder, page = place / "report", place / REPORT
    pictures = draw(summary, photos)
    written = []

    def write(path: Path, data: bytes) -> None:
        write_bytes(path, data)
        written.append(path)

    for name, data in plots(summary).items():
        write(folder / name, data)
    slugs = _slugs(one.name for one in summary.classes)
    for one, slug, shots in zip(summary.classes, slugs, pictures.samples, strict=False):
        if shots:
            sheet = class_sheet(one.name, _of_class(one), shots, pictures.side)
            write(folder / "samples" / f"{slug}.png", sheet)
    _remove_others(folder / "samples", {path.name for path in written})
    write(page, _page(summary, pictures).encode())
    for left in (place, folder, folder / "samples"):
        clean_up(left)
    return tuple(written)


def _slugs(names: Iterable[str]) -> Iterator[str]:
    """A name for the file of each class: letters and digits of any alphabet, each name once in any case."""
    taken = set(_RESERVED)
    for name in names:
        folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())
        letters = (c if unicodedata.category(c)[0] in "LMN" else " " for c in folded)
        short = "-".join("".join(letters).split()).encode()[:LONGEST_SLUG].decode(errors="ignore")
        slug = base = short.strip("-") or "class"
        number = 1
        while slug in taken:
            number += 1
            slug = f"{base}-{number}"
        taken.add(slug)
        yield slug


def _remove_others(folder: Path, names: set[str]) -> None:
    """Remove PNGs with our mark that have none of these names."""
    for path in sorted(folder.glob("*.png")):
        if path.name not in names and path.is_file():
            try:
                with path.open("rb") as file:
                    ours = b"Software\0" + SOFTWARE.encode() in file.read(256)
                if ours:
                    path.unlink()
            except OSError as error:
                raise SamcliError(f"cannot remove {path}: {error.strerror}; remove it yourself") from error


# The page


def _page(summary: Summary, pictures: Pictures) -> str:
    sections = [
        ("classes", "Classes", _classes(summary, pictures)),
        ("scores", "Scores and sizes", _histograms(summary)),
        ("dropped", "Left out", _dropped(summary)),
        ("splits", "Splits", _splits(summary)),
        ("duplicates", "Look-alikes", _duplicates(summary, pictures)),
        ("failures", "Failures", _failures(summary)),
        ("settings", "Settings", _settings(summary)),
        ("samples", "Samples", _samples(summary, pictures)),
    ]
    style = _file("report.css")
    style_hash = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    page = _file("report.html")
    pieces = []
    for name, text in (
        (
            "policy",
            f"default-src 'none'; img-src data:; style-src 'sha256-{style_hash}'; "
            "base-uri 'none'; form-action 'none'",
        ),
        ("style", style),
        ("nav", "".join(f'<li><a href="#{key}">{title}</a></li>' for key, title, body in sections if body)),
        (
            "sections",
            _headline(summary)
            + "".join(
                f'<section class="panel" id="{key}" aria-labelledby="{key}-title">'
                f'<h2 id="{key}-title">{title}</h2>{body}</section>\n'
                for key, title, body in sections
                if body
            ),
        ),
    ):
        before, _, page = page.partition(f"{{{{{name}}}}}")  # never what an earlier text holds
        pieces += [before, text]
    return "".join((*pieces, page))


def _headline(summary: Summary) -> str:
    total = summary.accepted + summary.existing
    classes = sum(bool(one.accepted + one.existing) for one in summary.classes)
    groups, alike = len(summary.duplicates), sum(map(len, summary.duplicates))
    skipped = f", {alike - groups:,} left out" if summary.skipped else ""
    tiles = [
        ("Images", summary.images, f"{summary.empty:,} without annotations", ""),
        ("Annotations", total, f"of {_counted(classes, 'class', 'classes')}", ""),
        ("Accepted", summary.accepted, _share(summary.accepted, total), "accepted"),
        ("Existing", summary.existing, _share(summary.existing, total), "existing"),
        ("To review", summary.to_review, "not yet annotations" if summary.to_review else "", "to-review"),
        ("Look-alikes", alike, f"in {_counted(groups, 'group', 'groups')}{skipped}" if groups else "", ""),
        ("Failures", len(summary.failures), "", ""),
    ]
    cells = []
    for name, number, more, key in tiles:
        bad = ' class="bad"' if name == "Failures" and number else ""
        cells.append(
            f"<div{bad}><dt>{_key(key, name) if key else name}</dt>"
            f'<dd class="number">{number:,}</dd>'
            + (f'<dd class="more">{more}</dd>' if more else "")
            + "</div>"
        )
    return f'<dl class="tiles">{"".join(cells)}</dl>\n'


def _classes(summary: Summary, pictures: Pictures) -> str:
    if not summary.classes:
        return "<p>There are no annotations, so there are no classes.</p>"
    kinds = [kind for kind in KINDS if getattr(summary, kind[0])] or [KINDS[0]]
    most = max(1, *(one.accepted + one.to_review + one.existing for one in summary.classes))
    rows = []
    for number, one in enumerate(summary.classes):
        values = [getattr(one, kind) for kind, _ in kinds]
        name = f"<bdi>{_text(one.name, LONGEST_LABEL)}</bdi>"
        if number < len(pictures.samples) and pictures.samples[number]:
            name = f'<a href="#class-{number + 1}">{name}</a>'
        bars, start = [], 0.0
        for (kind, _), value in zip(kinds, values, strict=True):
            wide = 100 * value / most
            bars.append(
                f'<rect class="{_css(kind)}" x="{start:.2f}" width="{wide:.2f}" height="1"/>' if value else ""
            )
            start += wide
        numbers = [*values, one.images]
        rows.append(
            f'<tr><th scope="row"><span><span class="name">{_dot(one.name)}{name}</span>'
            '<svg class="bar" viewBox="0 0 100 1" preserveAspectRatio="none" aria-hidden="true">'
            f"{''.join(bars)}</svg>"
            f"</span></th>{''.join(map(_number_cell, numbers))}</tr>\n"
        )
    columns = ["Class", *(title for _, title in kinds), "Images"]
    first = _table(
        "Annotations of each class, and images that have some",
        columns,
        rows[:ROWS],
        "classes",
        numbers_from=1,
    )
    if len(rows) <= ROWS:
        return _legend(kinds) + first
    rest = sum(one.accepted + one.existing for one in summary.classes[ROWS:])
    classes, more = (
        _counted(len(rows) - ROWS, "class", "classes"),
        _counted(rest, "annotation", "annotations"),
    )
    other = _table("The other classes", columns, rows[ROWS:], "classes", numbers_from=1)
    return f"{_legend(kinds)}{first}<details><summary>{classes} more, with {more}</summary>{other}</details>"


def _histograms(summary: Summary) -> str:
    kinds = (KINDS[0], KINDS[2]) if any(summary.review_scores) else KINDS[:1]
    both = [sum(pair) for pair in zip(summary.scores, summary.review_scores, strict=True)]
    scores = _histogram(
        "Scores",
        "How sure the detector was of what is proposed.",
        ([summary.scores, summary.review_scores][: len(kinds)], kinds),
        ("0", "0.25", "0.5", "0.75", "1"),
        "score",
        [f"{i / BINS:.2f} to {(i + 1) / BINS:.2f}" for i in range(BINS)],
        both,
    )
    sizes = _histogram(
        "Sizes",
        "The side of an annotation: the square root of its share of the image, so 10% is a hundredth of it.",
        ([summary.sizes], (("all", "Annotations"),)),
        ("0%", "25%", "50%", "75%", "100%"),
        "side",
        [f"{100 * i // BINS}% to {100 * (i + 1) // BINS}%" for i in range(BINS)],
        summary.sizes,
    )
    return f'<div class="two">{scores}{sizes}</div>'


def _histogram(
    title: str,
    about: str,
    stacked: tuple[Sequence[Sequence[int]], Sequence[tuple[str, str]]],
    ticks: Sequence[str],
    unit: str,
    ranges: Sequence[str],
    totals: Sequence[int],
) -> str:
    """A histogram and its table. stacked: the parts' counts, and their kinds. ranges: of each bar."""
    parts, kinds = stacked
    head = f'<h3>{title}</h3><p class="faint">{about}'
    count = sum(totals)
    if not count:
        return f"<div><div>{head}</p><p>There are none.</p></div></div>"
    middle = next(i for i in range(BINS) if 2 * sum(totals[: i + 1]) >= count)
    step, lines = _steps(max(totals))
    top = step * lines
    drawn = [
        f'<line x1="0" x2="{BINS}" y1="{100 * i / lines:g}" y2="{100 * i / lines:g}"/>'
        for i in range(lines + 1)
    ]
    rows = []
    for i in range(BINS):
        low = 0.0
        for values, (kind, _) in zip(parts, kinds, strict=True):
            if values[i]:
                tall = max(1.0, 100 * values[i] / top)  # a single one among thousands is seen
                drawn.append(
                    f'<rect class="{_css(kind)}" x="{i + 0.06:g}" width="0.88" '
                    f'y="{100 - low - tall:.2f}" height="{tall:.2f}"/>'
                )
                low += tall
        cells = "".join(_number_cell(values[i]) for values in parts)
        rows.append(f'<tr><th scope="row">{ranges[i]}</th>{cells}</tr>\n')
    marks = "".join(f"<span>{step * i:,}</span>" for i in range(lines, -1, -1))
    below = "".join(f"<span>{tick}</span>" for tick in ticks)
    table = _table(title, [unit.capitalize(), *(name for _, name in kinds)], rows, numbers_from=1)
    return (
        f"<div><div>{head} Median of {count:,}: {ranges[middle]}.</p>{_legend(kinds)}</div>"
        f'<div class="plot" aria-hidden="true"><div class="y">{marks}</div>'
        f'<svg viewBox="0 0 {BINS} 100" preserveAspectRatio="none">{"".join(drawn)}</svg>'
        f'<div class="x">{below}</div><div class="unit">{unit}</div></div>'
        f"<details><summary>{title} as a table</summary>{table}</details></div>"
    )


def _steps(most: int) -> tuple[int, int]:
    """A round number, and how many of it reach `most`: at most five."""
    power = 1
    while True:
        for factor in (1, 2, 5):
            step = factor * power
            if 5 * step >= most:
                return step, -(-most // step)
        power *= 10


def _dropped(summary: Summary) -> str:
    counts = sorted(summary.dropped.items(), key=lambda entry: (-entry[1], entry[0]))
    rows = [
        f'<tr><th scope="row">{_text(reason.replace("_", " "))}</th>'
        f"<td>{_text(RULES.get(reason, ''), LONGEST_REASON)}</td>{_number_cell(count)}</tr>\n"
        for reason, count in counts
        if count
    ]
    if not rows:
        return "<p>Every proposal was taken.</p>"
    number = _counted(sum(summary.dropped.values()), "proposal is", "proposals are")
    about = (
        f"<p>{number} not in the dataset. The records keep them: with other settings they can come back.</p>"
    )
    return about + _table(
        "Proposals that were left out", ["Reason", "Rule", "Proposals"], rows, "rules", numbers_from=2
    )


def _splits(summary: Summary) -> str:
    if not summary.splits:
        return ""
    images = sum(split.images for split in summary.splits)
    rows = [
        f'<tr><th scope="row">{_text(split.name)}</th>{_number_cell(split.images)}'
        f'<td class="n">{_share(split.images, images)}</td>{_number_cell(split.annotations)}</tr>\n'
        for split in summary.splits
    ]
    columns = ["Split", "Images", "Share", "Annotations"]
    return _table("Parts of the dataset, chosen by the photos' paths", columns, rows, numbers_from=1)


def _duplicates(summary: Summary, pictures: Pictures) -> str:
    groups = summary.duplicates
    if not groups:
        return "<p>No two photos look alike.</p>"
    fate = (
        "The first of each group is in the dataset, the others are left out."
        if summary.skipped
        else ("All are in the dataset; with --skip-duplicates only the first of each group would be.")
    )
    photos = _counted(sum(map(len, groups)), "photo", "photos")
    found = [f"<p>{photos} in {_counted(len(groups), 'group', 'groups')} that look alike. {fate}</p>"]
    boxes, text_only = [], []
    for number, group in enumerate(groups[:FAILURES]):
        shown = [name for name in group[:MEMBERS] if name in pictures.photos] if number < GROUPS else []
        if not shown:
            text_only.append(f"<li>{_names(group)}</li>")
            continue
        rest = [name for name in group if name not in shown]
        figures = "".join(
            f'<li><img src="{_data(pictures.photos[name])}" alt="" decoding="async">'
            f"<p>{_file_name(name)}{'<b>first</b>' if name == group[0] else ''}</p></li>"
            for name in shown
        )
        more = f'<p class="names faint">Also: {_names(rest)}</p>' if rest else ""
        boxes.append(f'<div class="group"><ul class="shots">{figures}</ul>{more}</div>')
    if boxes:
        found.append(f'<div class="groups">{"".join(boxes)}</div>')
    if text_only:
        found.append(f'<ol class="names">{"".join(text_only)}</ol>')
    if len(groups) > FAILURES:
        found.append(
            f'<p class="names faint">And {_counted(len(groups) - FAILURES, "more group", "more groups")}.</p>'
        )
    return "".join(found)


def _failures(summary: Summary) -> str:
    if not summary.failures:
        return "<p>There were none.</p>"
    rows = [
        f'<tr><th scope="row"><bdi>{_text(path)}</bdi></th>'
        f"<td><bdi>{_text(reason, LONGEST_REASON)}</bdi></td></tr>\n"
        for path, reason in summary.failures[:FAILURES]
    ]
    number = _counted(len(summary.failures), "photo", "photos")
    rest = len(summary.failures) - len(rows)
    more = f'<p class="names faint">And {rest:,} more.</p>' if rest else ""
    about = f"<p>{number} failed and left nothing in the dataset.</p>"
    return about + _table("Photos that failed", ["Photo", "Reason"], rows, "failed") + more


def _settings(summary: Summary) -> str:
    """The first settings, and of others what differs from them."""
    flat = [dict(_flat(settings)) for settings in summary.settings]
    found = []
    for number, settings in enumerate(flat[:SETTINGS], start=1):
        rows = [
            f'<tr><th scope="row">{_text(name)}</th>'
            f"<td><code>{_text(settings.get(name, 'none'), LONGEST_REASON)}</code></td></tr>\n"
            for name in {**settings, **flat[0]}
            if number == 1 or settings.get(name) != flat[0].get(name)
        ]
        caption = "What made the records" if number == 1 else "What made others, where it differs"
        found.append(_table(caption, ["Setting", "Value"], rows, "settings"))
    rest = len(flat) - SETTINGS
    return "".join(found) + (f'<p class="names faint">And {rest:,} others.</p>' if rest > 0 else "")


def _flat(settings: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    """Names and values; what is in another mapping by its path, and what is not set left out."""
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, above if name == "config" else f"{above}{name}.")
        elif isinstance(value, (list, tuple)):
            count = f" ({len(value):,})" if len(value) > 3 else ""
            yield f"{above}{name}{count}".replace("_", " "), ", ".join(map(str, value)) or "none"
        elif value is not None:
            said = {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)
            yield f"{above}{name}".replace("_", " "), said


def _samples(summary: Summary, pictures: Pictures) -> str:
    shown = [shots for shots in pictures.samples if shots]
    if not shown:
        return ""
    each = max(map(len, shown))
    found = []
    for number, (one, shots) in enumerate(zip(summary.classes, pictures.samples, strict=False), start=1):
        if shots:
            figures = "".join(_shot(one, shot) for shot in shots)
            found.append(
                f'<section class="class" id="class-{number}" aria-labelledby="class-{number}-title">'
                f'<h3 id="class-{number}-title">{_dot(one.name)}<bdi>{_text(one.name, LONGEST_LABEL)}</bdi>'
                f'<span class="faint">{_of_class(one)}</span></h3>'
                f'<ul class="shots">{figures}</ul></section>\n'
            )
    about = (
        f"Up to {each} of each class, from its best score to its worst."
        if each > 1
        else "The best of each class."
    )
    if pictures.alone < sum(map(len, shown)):
        about += " What is around a mask is darker."
    if pictures.alone:
        about += f" {_counted(pictures.alone, 'mask is', 'masks are')} shown alone: the photo is not at hand."
    about = f"<p>{about}</p>"
    few = ' class="few"' if each <= FEW else ""
    first = f"{about}<div{few}>{''.join(found[:ROWS])}</div>"
    if len(found) <= ROWS:
        return first
    classes = _counted(len(found) - ROWS, "class", "classes")
    return (
        f"{first}<details><summary>{classes} more</summary><div{few}>{''.join(found[ROWS:])}</div></details>"
    )


def _shot(one: ClassSummary, shot: Shot) -> str:
    score = score_of(shot.sample.mask)
    said = "" if score is None else f"<b>{score:.2f}</b>"
    return (
        f'<li><img src="{_data(shot.jpeg)}" alt="{_text(one.name, LONGEST_LABEL)}" decoding="async">'
        f"<p>{_file_name(shot.sample.file_name)}{said}</p></li>"
    )


# Pieces of it


def _table(
    caption: str,
    columns: Sequence[str],
    rows: Iterable[str],
    css: str = "",
    *,
    numbers_from: int | None = None,
) -> str:
    """A table. numbers_from: the first of the columns that hold numbers, when there are any."""
    cells = "".join(
        f'<th scope="col"{n}>{column}</th>'
        for i, column in enumerate(columns)
        for n in [' class="n"' if numbers_from is not None and i >= numbers_from else ""]
    )
    name = f' class="{css}"' if css else ""
    return (
        f"<table{name}><caption><span>{caption}</span></caption><thead><tr>{cells}</tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table>"
    )


def _legend(kinds: Sequence[tuple[str, str]]) -> str:
    if len(kinds) < 2:
        return ""
    return (
        f'<p class="legend">{"".join(f"<span>{_key(_css(kind), name)}</span>" for kind, name in kinds)}</p>'
    )


def _key(css: str, name: str) -> str:
    return f'<span class="key {css}">{name}</span>'


def _css(kind: str) -> str:
    return kind.replace("_", "-")


def _number_cell(number: int) -> str:
    return f'<td class="n{"" if number else " zero"}">{number:,}</td>'


def _dot(label: str) -> str:
    """A square in the colour that a label has in all pictures."""
    red, green, blue = colors([label_index(label)])[0].tolist()
    color = f"#{red:02x}{green:02x}{blue:02x}"
    square = f'<rect width="1" height="1" fill="{color}"/>'
    return f'<svg class="dot" viewBox="0 0 1 1" aria-hidden="true">{square}</svg>'


def _file_name(name: str) -> str:
    """A photo's name in little room, with its path when it is pointed at."""
    return f'<bdi title="{_text(name)}">{_text(name.rpartition("/")[2])}</bdi>'


def _names(names: Sequence[str]) -> str:
    said = ", ".join(f"<bdi>{_text(name)}</bdi>" for name in names[:NAMES])
    return said + (f" and {len(names) - NAMES:,} more" if len(names) > NAMES else "")


def _text(text: str, longest: int = LONGEST) -> str:
    """Text of others as HTML: what cannot be shown is replaced, and the middle of what is too long."""
    text = text.encode("utf-8", "replace").decode()
    if len(text) > longest:
        text = f"{text[: longest // 2]} … {text[-longest // 2 :]}"
    shown = (c if c.isprintable() or c in _JOINERS else " " if c.isspace() else "\ufffd" for c in text)
    return html.escape("".join(shown))


def _of_class(one: ClassSummary) -> str:
    said = _counted(one.accepted + one.existing, "annotation", "annotations")
    if one.to_review:
        said += f" and {one.to_review:,} to review"
    return f"{said} in {_counted(one.images, 'image', 'images')}"


def _counted(number: int, one: str, more: str) -> str:
    return f"{number:,} {one if number == 1 else more}"


def _share(part: int, whole: int) -> str:
    """In per cent, never 0 or 100 for what is only close to it."""
    if not whole:
        return ""
    share = 100 * part / whole
    if 0 < share < 1:
        return "under 1%"
    return "over 99%" if 99 < share < 100 else f"{share:.0f}%"


def _data(jpeg: bytes) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"


def _file(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")
