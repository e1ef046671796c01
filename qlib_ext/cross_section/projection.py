"""What of a day's values its exposures do not explain: residuals of weighted least squares, day by day.

``B`` days of ``N`` stocks, ``K`` exposures; masks True = real. Derivation: `docs/formulas.md`.
"""

import torch
from torch import Tensor

from qlib_ext.cross_section.masked import FLAT_STEPS, widen
from qlib_ext.options import check_shapes

RIDGE = 1e-9  # on the correlations of the exposures: what varies by less than 3e-5 apart from the others is collinear
EXPLAINED = 1e-6  # a residual within such a share of the value's deviation is none
CONSTANT = 1e-6  # so is an exposure that varies by less than such a share of its size


def project_off(value: Tensor, exposures: Tensor, weight: Tensor, mask: Tensor) -> Tensor:
    """Take off what a weighted regression on (1, exposures) explains of each day's values.

    With w~ = w / sum w the residual e = v - a - X b has sum w~ e = 0, X' w~ e = 0. Gradients flow to ``value`` alone.
    The mean is taken off first (Frisch and Waugh 1933), exposures go by their deviations, so that the system is the
    (K, K) correlations of the exposures; in float64, with a small ridge, and solved twice: the second pass takes off
    what ridge and rounding have left. Constant exposures explain nothing, collinear ones what one of them does.

    Args:
        value: (B, N) ignored where not real.
        exposures: (B, N, K) finite where real.
        weight: (B, N) at least 0.
        mask: (B, N) bool, True = real.

    Returns:
        (B, N) in the value's type, 0 where not real; 0 (with a gradient) on a day whose value the exposures explain but
        for rounding, such as one with no more stocks than exposures + 1.

    Raises:
        ValueError: for shapes.

    >>> size, value = torch.tensor([[[0.0], [1.0], [2.0]]]), torch.tensor([[1.0, 5.0, 3.0]])
    >>> project_off(value, size, torch.ones(1, 3), torch.ones(1, 3, dtype=torch.bool)).round(decimals=3)
    tensor([[-1.,  2., -1.]])
    """
    check_exposures(exposures, value=value, weight=weight, mask=mask)
    (value,) = widen(value)
    share = torch.where(mask, weight, 0.0).detach().double()
    share = share / share.sum(dim=1, keepdim=True).clamp(min=torch.finfo(torch.float64).tiny)
    design = _units(exposures, share, mask)
    factor = _factor(design, share)
    real = torch.where(mask, value, 0.0).double()
    apart = centred = _centre(real, share, mask)
    for _ in range(2):
        moment = torch.einsum("bnk,bn,bn->bk", design, share, apart)
        explained = torch.cholesky_solve(moment[..., None], factor)[..., 0]
        apart = _centre(apart - torch.einsum("bnk,bk->bn", design, explained), share, mask)
    before, after = ((share * gap**2).sum(dim=1, keepdim=True).sqrt() for gap in (centred.detach(), apart.detach()))
    size = real.detach().abs().amax(dim=1, keepdim=True) if real.shape[1] else before
    noise = EXPLAINED * before + FLAT_STEPS * torch.finfo(value.dtype).eps * size
    return torch.where(after <= noise, apart - apart.detach(), apart).to(value.dtype)


def varied_exposures(exposures: Tensor, mask: Tensor) -> Tensor:
    """Count each day's exposures (B, N, K) that are not the same for all real stocks: (B,)."""
    if not exposures.shape[1]:
        return torch.zeros(len(exposures), dtype=torch.int64, device=exposures.device)
    low, high = (torch.where(mask[..., None], sign * exposures, -torch.inf).amax(dim=1) * sign for sign in (-1.0, 1.0))
    return (high - low > CONSTANT * torch.maximum(low.abs(), high.abs())).sum(dim=1)


def check_exposures(exposures: Tensor, **days: Tensor) -> None:
    """Raise ValueError unless exposures are (B, N, K) and the others (B, N)."""
    check_shapes("(B, N) = (days, stocks)", **days)
    shape = next(iter(days.values())).shape
    if exposures.ndim != 3 or exposures.shape[:2] != shape:
        raise ValueError(
            f"exposures are {tuple(exposures.shape)}; wanted (B, N, K) = ({shape[0]}, {shape[1]}, exposures)"
        )


def _centre(value: Tensor, share: Tensor, mask: Tensor) -> Tensor:
    """Take the weighted mean off (B, N); 0 where not real."""
    return torch.where(mask, value - (share * value).sum(dim=1, keepdim=True), 0.0)


def _units(exposures: Tensor, share: Tensor, mask: Tensor) -> Tensor:
    """Exposures (B, N, K) in weighted deviations from their weighted mean; 0 where not real, and where constant."""
    wide = torch.where(mask[..., None], exposures, 0.0).detach().double()
    weight = share[..., None]
    gap = torch.where(mask[..., None], wide - (weight * wide).sum(dim=1, keepdim=True), 0.0)
    deviation = (weight * gap**2).sum(dim=1, keepdim=True).sqrt()
    size = wide.abs().amax(dim=1, keepdim=True) if wide.shape[1] else deviation
    flat = deviation <= CONSTANT * size
    return torch.where(flat, 0.0, gap / torch.where(flat, 1.0, deviation))


def _factor(design: Tensor, share: Tensor) -> Tensor:
    """Cholesky factor (B, K, K) of the correlations of the exposures, with the ridge; no call waits for a GPU."""
    correlation = torch.einsum("bnk,bn,bnl->bkl", design, share, design)
    ridge = RIDGE * torch.eye(design.shape[2], dtype=design.dtype, device=design.device)
    return torch.linalg.cholesky_ex(correlation + ridge).L
