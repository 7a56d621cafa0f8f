"""Losses of SAM's section 3 and appendix A: focal and dice 20:1, mean squared error on the predicted IoU.

Instead of the focal loss there may be plain cross entropy, whose least value for a cell that an answer covers
in part is at that part: so contours come to lie between cells.
"""

from __future__ import annotations

from itertools import permutations

import torch
import torch.nn.functional as F
from torch import Tensor

FOCAL_WEIGHT, CROSS_ENTROPY_WEIGHT, DICE_WEIGHT = 20.0, 2.0, 1.0
GAMMA, ALPHA = 2.0, 0.25


def mask_loss(logits: Tensor, targets: Tensor, *, focal: bool = True) -> Tensor:
    """Focal (Lin et al., 2017) and dice loss in SAM's proportion, or cross entropy and dice.

    logits and targets broadcast to (..., h, w); targets from 0 to 1. Returns (...) fp32.
    """
    logits, targets = logits.float(), targets.float()
    logits, targets = torch.broadcast_tensors(logits, targets)
    probability = logits.sigmoid()
    cross_entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    weight = CROSS_ENTROPY_WEIGHT
    if focal:
        correct = probability * targets + (1 - probability) * (1 - targets)
        balance = ALPHA * targets + (1 - ALPHA) * (1 - targets)
        cross_entropy = balance * (1 - correct) ** GAMMA * cross_entropy
        weight = FOCAL_WEIGHT
    overlap = 2 * (probability * targets).sum((-2, -1))
    dice = 1 - (overlap + 1) / (probability.sum((-2, -1)) + targets.sum((-2, -1)) + 1)
    return weight * cross_entropy.mean((-2, -1)) + DICE_WEIGHT * dice


def matched_loss(losses: Tensor, known: Tensor, weights: Tensor) -> Tensor:
    """Give each known answer its own ambiguity token so that the weighted sum is least.

    With one known answer this is SAM's minimum over the three masks. losses: (N, M, A), token by answer, at
    least as many tokens as answers. known: (N, A) bool. weights: (A,) of the answers. Returns (N,), zero
    where nothing is known.
    """
    tokens, answers = losses.shape[1:]
    orders = torch.tensor(list(permutations(range(tokens), answers)), device=losses.device)  # answer -> token
    paired = losses[:, orders, torch.arange(answers, device=losses.device)]  # (N, orders, A)
    share = weights * known
    share = share / share.sum(1, keepdim=True).clamp(min=1e-6)
    return (paired * share[:, None]).sum(-1).min(1).values


def iou(logits: Tensor, targets: Tensor) -> Tensor:
    """IoU of logits > 0 and targets, at least half covered, which broadcast to (..., h, w). Returns (...)
    fp32; two empty masks give 0.
    """
    a, b = logits > 0, targets >= 0.5
    shared = (a & b).sum((-2, -1))
    return shared / (a.sum((-2, -1)) + b.sum((-2, -1)) - shared).clamp(min=1)
