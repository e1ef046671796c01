"""RobustScale: features on one scale, fitted on training days only."""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from qlib_ext.cross_section import centre_and_spread
from qlib_ext.panel import DayPanel


class RobustScale(nn.Module):
    """(x - median) / spread, clipped to +-3, fitted on training days only; kept in the state dict.

    The spread is 1.4826 MAD, or the standard deviation where half of the values are equal, as in `nets.Gate`.
    """

    center: Tensor
    scale: Tensor

    def __init__(self, d_feat: int) -> None:
        super().__init__()
        self.register_buffer("center", torch.zeros(d_feat))
        self.register_buffer("scale", torch.ones(d_feat))

    def fit(self, panel: DayPanel, rows: npt.NDArray[np.int64]) -> None:
        """Fit on the present stocks of the given days; a constant feature keeps scale 1."""
        at = torch.as_tensor(rows)
        mask = panel.present[at]
        for f in range(panel.x.shape[2]):
            centre, spread = centre_and_spread(panel.x[at, :, f][mask])
            self.center[f], self.scale[f] = centre, torch.where(spread > 0, spread, 1.0)

    def forward(self, x: Tensor) -> Tensor:
        """Scale (..., F)."""
        return ((x - self.center) / self.scale).clamp(-3.0, 3.0)
