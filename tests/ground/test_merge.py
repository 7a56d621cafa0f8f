"""Which detections are kept: every case with the answer it must have."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from samcli.ground.detector import Detected
from samcli.ground.merge import Tile, join, tidy, tiles

Row = tuple[float, float, float, float, float, int]  # a box, its score, its phrase


def detected(*rows: Row) -> Detected:
    table = np.array(rows, dtype=np.float64).reshape(-1, 6)
    return Detected(table[:, :4], table[:, 4], table[:, 5].astype(np.int64))


def rows(found: Detected) -> list[Row]:
    return [
        (*(float(v) for v in box), float(score), int(phrase))
        for box, score, phrase in zip(found.boxes, found.scores, found.phrases, strict=True)
    ]


def boxes(found: Detected) -> list[tuple[float, ...]]:
    return [row[:4] for row in rows(found)]


def tidied(*given: Row, iou: float = 0.7, agnostic: bool = False, containment: float | None = None,
           most: int | None = None) -> list[Row]:  # fmt: skip
    return rows(tidy(detected(*given), iou=iou, agnostic=agnostic, containment=containment, most=most))


# Duplicates

CAT, ALMOST, DOG = (0, 0, 10, 10, 0.5, 0), (0, 0, 10, 9, 0.6, 0), (0, 0, 10, 10, 0.9, 1)


def test_of_duplicates_the_best_stays_and_the_best_come_first() -> None:
    assert tidied(CAT, ALMOST, (50, 50, 60, 60, 0.55, 0)) == [ALMOST, (50, 50, 60, 60, 0.55, 0)]


def test_phrases_do_not_compete_unless_asked_for() -> None:
    assert tidied(CAT, DOG) == [DOG, CAT]
    assert tidied(CAT, DOG, agnostic=True) == [DOG]


def test_the_iou_at_which_duplicates_begin() -> None:
    assert tidied(CAT, ALMOST, iou=0.91) == [ALMOST, CAT]  # theirs is 0.9
    assert tidied(CAT, ALMOST, iou=0.89) == [ALMOST]
    assert tidied(CAT, CAT, iou=1) == [CAT, CAT]


def test_of_equal_scores_the_first_stays() -> None:
    assert tidied(CAT, (0, 0, 10, 9, 0.5, 0)) == [CAT]


def test_containment_takes_parts_and_boxes_around_groups() -> None:
    whole, part, beside = (0, 0, 100, 100, 0.9, 0), (10, 10, 30, 30, 0.8, 0), (80, 80, 120, 120, 0.7, 0)
    assert tidied(whole, part, beside) == [whole, part, beside]
    assert tidied(whole, part, beside, containment=0.8) == [whole, beside]
    members = [(0, 0, 20, 20, 0.9, 0), (30, 0, 50, 20, 0.8, 0)]
    around = (0, 0, 50, 20, 0.4, 0)
    assert tidied(*members, around, containment=0.8) == members
    other = (0, 0, 50, 20, 0.4, 1)
    assert tidied(*members, other, containment=0.8) == [*members, other]
    assert tidied(*members, other, containment=0.8, agnostic=True) == members


def test_containment_is_a_share_of_the_smaller_box() -> None:
    large, half = (0, 0, 100, 100, 0.9, 0), (95, 0, 105, 10, 0.8, 0)
    assert tidied(large, half, containment=0.5) == [large, half]
    assert tidied(large, half, containment=0.49) == [large]


def test_the_most_detections() -> None:
    assert tidied(CAT, DOG, (50, 50, 60, 60, 0.7, 0), most=2) == [DOG, (50, 50, 60, 60, 0.7, 0)]


@pytest.mark.parametrize("agnostic", [False, True])
def test_nothing_stays_nothing(agnostic: bool) -> None:
    assert tidied(agnostic=agnostic, containment=0.5) == []


# Tiles


def test_an_image_that_fits_has_no_tiles() -> None:
    assert tiles((100, 80), 100, 0.2) == ()


def test_tiles_cover_the_image_evenly() -> None:
    assert tiles((100, 180), 100, 0.2) == (Tile(0, 0, 100, 100), Tile(80, 0, 180, 100))
    found = tiles((250, 100), 100, 0.2)
    assert found == (Tile(0, 0, 100, 100), Tile(0, 75, 100, 175), Tile(0, 150, 100, 250))
    assert tiles((50, 150), 100, 0.0) == (Tile(0, 0, 100, 50), Tile(50, 0, 150, 50))


@pytest.mark.parametrize("size", [(101, 1000), (333, 777), (64, 65)])
@pytest.mark.parametrize("overlap", [0.0, 0.2, 0.5, 0.9])
def test_neighbours_overlap_at_least_as_asked(size: tuple[int, int], overlap: float) -> None:
    layout = tiles(size, 64, overlap)
    seen = np.zeros(size, bool)
    for tile in layout:
        assert (tile.x1 - tile.x0, tile.y1 - tile.y0) == (min(64, size[1]), min(64, size[0]))
        seen[tile.y0 : tile.y1, tile.x0 : tile.x1] = True
    assert seen.all()
    columns = sorted({tile.x0 for tile in layout})
    assert all(b - a <= 64 * (1 - overlap) + 1 for a, b in itertools.pairwise(columns))


# Detections of tiles


def look(
    things: list[tuple[float, float, float, float]], layout: tuple[Tile, ...], *, least: float = 4.0
) -> list[tuple[Tile, Detected]]:
    """What a flawless detector sees in each tile: the visible part of each thing, unless it is tiny."""
    parts = []
    for tile in layout:
        found = []
        for number, (x0, y0, x1, y1) in enumerate(things):
            left, top = max(x0, tile.x0) - tile.x0, max(y0, tile.y0) - tile.y0
            right, bottom = min(x1, tile.x1) - tile.x0, min(y1, tile.y1) - tile.y0
            if min(right - left, bottom - top) >= least:
                found.append((left, top, right, bottom, 0.9 - 0.01 * number, 0))
        parts.append((tile, detected(*found)))
    return parts


SIZE = (400, 400)
NOTHING = detected()


def joined(things: list[tuple[float, float, float, float]], side: int, overlap: float,
           whole: Detected = NOTHING) -> list[tuple[float, ...]]:  # fmt: skip
    parts = look(things, tiles(SIZE, side, overlap))
    return sorted(boxes(join(parts, whole, SIZE, agnostic=False)))


@pytest.mark.parametrize("overlap", [0.0, 0.1, 0.25, 0.5])
@pytest.mark.parametrize(
    "thing",
    [
        pytest.param((150, 20, 260, 60), id="across two tiles"),
        pytest.param((150, 150, 260, 260), id="across four tiles"),
        pytest.param((10, 10, 390, 390), id="larger than a tile"),
        pytest.param((0, 0, 400, 400), id="the whole image"),
        pytest.param((20, 180, 390, 215), id="long"),
        pytest.param((210, 210, 230, 230), id="small"),
    ],
)
def test_one_thing_stays_one(thing: tuple[float, float, float, float], overlap: float) -> None:
    assert joined([thing], 200, overlap) == [thing]


def test_duplicates_in_the_overlap_become_the_better_one() -> None:
    layout = tiles((100, 160), 100, 0.4)
    assert layout == (Tile(0, 0, 100, 100), Tile(60, 0, 160, 100))
    parts = [(layout[0], detected((70, 40, 90, 60, 0.5, 0))), (layout[1], detected((11, 41, 29, 60, 0.8, 0)))]
    assert rows(join(parts, NOTHING, (100, 160), agnostic=False)) == [(71, 41, 89, 60, 0.8, 0)]


def test_who_saw_it_whole_is_right_but_the_best_score_counts() -> None:
    layout = tiles((100, 160), 100, 0.4)
    cut, uncut = (80, 40, 100, 60, 0.8, 0), (20, 40, 60, 60, 0.5, 0)  # of a thing from 80 to 120
    parts = [(layout[0], detected(cut)), (layout[1], detected(uncut))]
    assert rows(join(parts, NOTHING, (100, 160), agnostic=False)) == [(80, 40, 120, 60, 0.8, 0)]


@pytest.mark.parametrize(
    "things",
    [
        pytest.param([(150, 20, 200, 60), (200, 20, 250, 60)], id="side by side on the seam"),
        pytest.param([(150, 20, 190, 60), (190, 20, 250, 60)], id="side by side near the seam"),
        pytest.param([(120, 20, 280, 60), (120, 60, 280, 100)], id="one above the other"),
        pytest.param([(150, 150, 200, 260), (200, 150, 260, 260)], id="at the corner"),
        pytest.param([(10, 10, 390, 200), (10, 200, 390, 390)], id="both large"),
    ],
)
@pytest.mark.parametrize("overlap", [0.1, 0.25, 0.5])
def test_touching_things_stay_two(things: list[tuple[float, float, float, float]], overlap: float) -> None:
    assert joined(things, 200, overlap) == things


def test_a_row_of_small_things_stays_what_it_is() -> None:
    things = [(float(x), 190.0, float(x) + 18, 210.0) for x in range(0, 400, 20)]
    assert joined(things, 200, 0.2) == things


def test_a_slanting_thing_whose_parts_have_other_heights() -> None:
    # A pencil from (0, 0) to (380, 380): each tile's box holds only its own piece, and these hardly agree.
    layout = tiles(SIZE, 200, 0.2)
    pieces = []
    for tile in layout:
        low, high = max(0, tile.x0, tile.y0), min(380, tile.x1, tile.y1)
        if high - low > 4:
            box = (low - tile.x0, low - tile.y0, high - tile.x0, high - tile.y0, 0.5, 0)
            pieces.append((tile, detected(box)))
    assert boxes(join(pieces, NOTHING, SIZE, agnostic=False)) == [(0, 0, 380, 380)]


def test_what_the_whole_image_shows_takes_its_pieces() -> None:
    # One tile saw its piece, its neighbours did not.
    piece = [(Tile(0, 0, 200, 200), detected((50, 50, 200, 200, 0.7, 0)))]
    whole = detected((50, 50, 350, 350, 0.4, 0))
    assert rows(join(piece, whole, SIZE, agnostic=False)) == rows(whole)
    other = detected((50, 50, 350, 350, 0.4, 1))
    assert len(join(piece, other, SIZE, agnostic=False)) == 2
    assert rows(join(piece, other, SIZE, agnostic=True)) == rows(other)


def test_a_small_thing_before_a_large_one_is_no_piece_of_it() -> None:
    large, small = (10, 10, 390, 390), (90, 90, 120, 120)
    assert joined([large, small], 200, 0.2, detected((*large, 0.6, 0)))[-1] == small


def test_phrases_are_not_joined_unless_asked_for() -> None:
    layout = tiles((100, 160), 100, 0.4)
    parts = [(layout[0], detected((70, 40, 90, 60, 0.5, 0))), (layout[1], detected((10, 40, 30, 60, 0.8, 1)))]
    assert len(join(parts, NOTHING, (100, 160), agnostic=False)) == 2
    assert rows(join(parts, NOTHING, (100, 160), agnostic=True)) == [(70, 40, 90, 60, 0.8, 1)]


def test_only_the_whole_image() -> None:
    whole = detected((1, 2, 3, 4, 0.2, 0), (5, 6, 7, 8, 0.4, 1))
    assert rows(join([], whole, SIZE, agnostic=False)) == rows(whole)[::-1]


def test_nothing_in_any_tile() -> None:
    parts = [(tile, NOTHING) for tile in tiles(SIZE, 200, 0.2)]
    assert rows(join(parts, NOTHING, SIZE, agnostic=False)) == []


def test_boxes_that_are_a_little_off_still_meet() -> None:
    generator = np.random.default_rng(3)
    things = [(40.0, 60.0, 180.0, 300.0), (230.0, 20.0, 390.0, 260.0), (200.0, 300.0, 280.0, 380.0)]
    for _ in range(50):
        parts = []
        for tile, found in look(things, tiles(SIZE, 200, 0.25)):
            moved = np.clip(found.boxes + generator.uniform(-3, 3, found.boxes.shape), 0, 200)
            parts.append((tile, Detected(moved, found.scores, found.phrases)))
        found = sorted(boxes(join(parts, NOTHING, SIZE, agnostic=False)))
        assert len(found) == 3
        np.testing.assert_allclose(sorted(found), sorted(things), atol=3.01)
