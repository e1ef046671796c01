"""Slow oracles of the losses: one day and one stock at a time, in double precision; for tests only.

Each function takes one day's sequences of plain numbers; ``mask`` True = real. ``deck_listing`` is the deck's
own text.
"""

import math
from collections.abc import Sequence

import torch

Numbers = Sequence[float]
Flags = Sequence[bool]


def deck_listing(pred: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """The loss listed on page 2 of the slides, to the letter; pred and label are (N,)."""
    _, argsort = torch.sort(label, descending=True, dim=0)
    weight = torch.zeros_like(pred)
    weight_new = torch.tensor(
        [0.5 ** ((j - 1) / (pred.shape[0] - 1)) for j in range(1, pred.shape[0] + 1)], device=pred.device
    ).unsqueeze(dim=1 if pred.ndim > 1 else 0)
    weight[argsort] = weight_new.squeeze()
    wcov = (pred * label * weight).sum() / weight.sum() - (pred * weight).sum() / weight.sum() * (
        label * weight
    ).sum() / weight.sum()
    pred_std = torch.sqrt(((pred - pred.mean()) ** 2 * weight).sum() / weight.sum() + 1e-8)
    label_std = torch.sqrt(((label - label.mean()) ** 2 * weight).sum() / weight.sum() + 1e-8)
    loss = -(wcov / (pred_std * label_std))
    return loss


def labelled(label: Numbers, mask: Flags) -> list[int]:
    """Positions of the real stocks whose label is finite."""
    return [i for i in range(len(label)) if mask[i] and math.isfinite(label[i])]


def descending_places(values: Numbers, ties: str) -> list[float]:
    """0 for the highest; equal values by position or by their mean place."""
    places = []
    for i, value in enumerate(values):
        above = sum(other > value for other in values)
        equal = sum(other == value for other in values)
        before = sum(other == value for other in values[:i])
        places.append(above + (before if ties == "stable" else (equal - 1) / 2))
    return places


def rank_weight(label: Numbers, mask: Flags, base: float = 0.5, ties: str = "stable") -> list[float]:
    real = labelled(label, mask)
    weight = [0.0] * len(label)
    if len(real) < 2:
        return weight
    places = descending_places([label[i] for i in real], ties)
    for i, place in zip(real, places, strict=True):
        weight[i] = base ** (place / (len(real) - 1))
    return weight


def liquidity_weight(label: Numbers, liquidity: Numbers, mask: Flags, alpha: float = 40.0) -> list[float]:
    real = labelled(label, mask)
    logs = {i: math.log(liquidity[i]) for i in real if math.isfinite(liquidity[i]) and liquidity[i] > 0}
    weight = [0.0] * len(label)
    for i in real:
        level = 0.0
        if i in logs and max(logs.values()) > min(logs.values()):
            level = (logs[i] - min(logs.values())) / (max(logs.values()) - min(logs.values()))
        weight[i] = 0.5 + 0.5 / (1 + math.exp(-alpha * level * label[i]))
    return weight


def weighted_pearson(score: Numbers, label: Numbers, weight: Numbers, mask: Flags, center: str) -> float:
    real = labelled(label, mask)
    total = sum(weight[i] for i in real)
    if len(real) < 2 or total == 0 or len({label[i] for i in real}) == 1:
        return 0.0
    p_weighted = sum(weight[i] * score[i] for i in real) / total
    r_weighted = sum(weight[i] * label[i] for i in real) / total
    p_mean, r_mean, guard = p_weighted, r_weighted, 0.0
    if center == "plain":
        p_mean = sum(score[i] for i in real) / len(real)
        r_mean = sum(label[i] for i in real) / len(real)
        guard = 1e-8
    covariance = sum(weight[i] * (score[i] - p_weighted) * (label[i] - r_weighted) for i in real) / total
    p_var = sum(weight[i] * (score[i] - p_mean) ** 2 for i in real) / total + guard
    r_var = sum(weight[i] * (label[i] - r_mean) ** 2 for i in real) / total + guard
    return covariance / math.sqrt(p_var * r_var) if p_var > 0 else 0.0


def information_coefficient(score: Numbers, target: Numbers, mask: Flags) -> float:
    return weighted_pearson(score, target, [1.0] * len(score), mask, "weighted")


def concordance(score: Numbers, target: Numbers, mask: Flags) -> float:
    real = labelled(target, mask)
    if len(real) < 2 or len({target[i] for i in real}) == 1:
        return 0.0
    n = len(real)
    p_mean, r_mean = sum(score[i] for i in real) / n, sum(target[i] for i in real) / n
    covariance = sum((score[i] - p_mean) * (target[i] - r_mean) for i in real) / n
    p_var = sum((score[i] - p_mean) ** 2 for i in real) / n
    r_var = sum((target[i] - r_mean) ** 2 for i in real) / n
    return 2 * covariance / (p_var + r_var + (p_mean - r_mean) ** 2)


def mean_squared_error(score: Numbers, target: Numbers, mask: Flags) -> float:
    real = labelled(target, mask)
    return sum((score[i] - target[i]) ** 2 for i in real) / len(real) if real else 0.0


def median(values: Numbers) -> float:
    ordered = sorted(values)
    return (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2


def target_transform(label: Numbers, mask: Flags, target: str, volatility: Numbers) -> list[float]:
    real = labelled(label, mask)
    answer = [math.nan] * len(label)
    if target == "raw":
        for i in real:
            answer[i] = label[i]
    elif target == "rank":
        places = [-place for place in descending_places([label[i] for i in real], "average")]
        mean = sum(places) / len(real) if real else 0.0
        sd = math.sqrt(sum((place - mean) ** 2 for place in places) / len(real)) if real else 0.0
        for i, place in zip(real, places, strict=True):
            answer[i] = (place - mean) / sd if sd > 0 else 0.0
    else:
        positive = [volatility[i] for i in real if math.isfinite(volatility[i]) and volatility[i] > 0]
        for i in real:
            answer[i] = label[i]
            if positive:
                middle = median(positive)
                own = volatility[i] if math.isfinite(volatility[i]) and volatility[i] >= 0 else middle
                answer[i] *= middle / max(own, middle / 10)
    return answer


def deal(label: Numbers, score: Numbers, mask: Flags) -> list[float]:
    """The day's labels, highest first, handed to the stocks in the order of their scores."""
    real = labelled(label, mask)
    best_first = sorted((label[i] for i in real), reverse=True)
    places = descending_places([score[i] for i in real], "stable")
    answer = [math.nan] * len(label)
    for i, place in zip(real, places, strict=True):
        answer[i] = best_first[int(place)]
    return answer


def day_is_valid(name: str, label: Numbers, mask: Flags, liquidity: Numbers) -> bool:
    real = labelled(label, mask)
    if len(real) < 2 or len({label[i] for i in real}) == 1:
        return False
    return name != "liq_wpcc" or any(math.isfinite(liquidity[i]) and liquidity[i] > 0 for i in real)


def day_loss(
    name: str,
    score: Numbers,
    label: Numbers,
    mask: Flags,
    liquidity: Numbers,
    volatility: Numbers,
    target: str = "raw",
    weight_by: str = "label",
    base: float = 0.5,
    alpha: float = 40.0,
    center: str = "weighted",
    ties: str = "stable",
) -> float:
    """One day of DayLoss."""
    if not day_is_valid(name, label, mask, liquidity):
        return 0.0
    goal = target_transform(label, mask, target, volatility)
    if name == "mse":
        return mean_squared_error(score, goal, mask)
    if name == "ccc":
        return -concordance(score, goal, mask)
    if name == "ic":
        return -information_coefficient(score, goal, mask)
    flags = [mask[i] and math.isfinite(label[i]) for i in range(len(label))]
    if name == "wpcc":
        source = {"label": label, "score": score, "target": goal}[weight_by]
        weight = rank_weight(source, flags, base, ties)
    else:
        source = {"label": label, "score": deal(label, score, mask), "target": goal}[weight_by]
        weight = liquidity_weight(source, liquidity, flags, alpha)
    return -weighted_pearson(score, goal, weight, mask, center)
