from __future__ import annotations

from itertools import permutations

import pytest
import torch

from samcli.train.losses import iou, mask_loss, matched_loss


def test_mask_loss_is_twenty_focal_and_one_dice_by_hand() -> None:
    logits = torch.tensor([[0.0, 2.0], [-2.0, 0.0]])
    targets = torch.tensor([[1.0, 1.0], [0.0, 0.0]])
    focal, overlap, total = 0.0, 0.0, 0.0
    for logit, target in zip(logits.flatten().tolist(), targets.flatten().tolist(), strict=True):
        p = 1 / (1 + torch.tensor(-logit).exp())
        correct = p if target else 1 - p
        balance = 0.25 if target else 0.75
        focal += float(balance * (1 - correct) ** 2 * -correct.log()) / 4
        overlap += 2 * float(p) * target
        total += float(p) + target
    expected = 20 * focal + 1 - (overlap + 1) / (total + 1)
    assert float(mask_loss(logits, targets)) == pytest.approx(expected, rel=1e-5)


def test_a_perfect_mask_costs_nearly_nothing_and_a_wrong_one_much() -> None:
    targets = torch.zeros(8, 8)
    targets[2:6, 2:6] = 1
    right, wrong = (mask_loss(sign * 20 * (targets - 0.5), targets) for sign in (1, -1))
    assert right < 1e-3
    assert wrong > 10


def test_cross_entropy_is_least_where_the_answer_covers_as_much() -> None:
    """So a cell covered by a quarter is best answered with a quarter, and contours lie between cells."""
    logits = torch.linspace(-3, 3, 601)[:, None, None]
    coverage = torch.tensor([[0.25]])
    best = mask_loss(logits.expand(-1, 40, 40), coverage, focal=False).argmin()
    assert float(logits[best].sigmoid()) == pytest.approx(0.25, abs=0.05)
    by_hand = 2 * 0.6931 + 1 - (2 * 0.5 * 0.25 + 1) / (0.5 + 0.25 + 1)
    assert float(mask_loss(torch.zeros(1, 1), coverage, focal=False)) == pytest.approx(by_hand, abs=1e-4)


def test_one_known_answer_takes_the_cheapest_token() -> None:
    losses = torch.tensor([[[3.0, 9, 9], [1.0, 0, 0], [2.0, 9, 9]]])
    known = torch.tensor([[True, False, False]])
    assert matched_loss(losses, known, torch.ones(3)).tolist() == [1.0]


def test_known_answers_take_tokens_of_their_own_in_the_cheapest_order() -> None:
    generator = torch.Generator().manual_seed(0)
    losses = torch.rand(5, 3, 3, generator=generator)
    weights = torch.tensor([1.0, 0.5, 0.5])
    found = matched_loss(losses, torch.ones(5, 3, dtype=torch.bool), weights)
    for n in range(5):
        best = min(
            sum(float(weights[j] * losses[n, token, j]) for j, token in enumerate(order)) / 2
            for order in permutations(range(3))
        )
        assert float(found[n]) == pytest.approx(best, rel=1e-5)


def test_nothing_known_costs_nothing() -> None:
    assert matched_loss(torch.ones(2, 3, 3), torch.zeros(2, 3, dtype=torch.bool), torch.ones(3)).tolist() == [
        0,
        0,
    ]


def test_iou_by_hand() -> None:
    logits = torch.tensor([[1.0, 1.0, -1.0, -1.0], [-1.0, -1.0, -1.0, -1.0]])[:, None]
    targets = torch.tensor([[1, 0.4, 0.5, 0], [0, 0, 0, 0]])[:, None]
    assert iou(logits, targets).tolist() == [pytest.approx(1 / 3), 0.0]
