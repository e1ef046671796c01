"""What reads scores out of a stock's embedding: a linear map, or one with a bounded gated branch beside it."""

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from qlib_ext.nets.attention import Dropout
from qlib_ext.options import check_choice

Head = Literal["linear", "rankglu"]


class RankGLU(nn.Linear):
    """score = w e + b + O (V n * sigmoid(G n)), n = LN(e): a linear path and a bounded gated branch of max(D/2, 32).

    RankGLU, Xiao et al. (2026, arXiv 2606.08930): a direct path keeps the order of a linear head, a multiplicative
    branch lets features of the embedding interact within a bound. The authors' code has Linear(LN(e)) as its direct
    path and a linear map with bias after the gate. Here the direct path is the plain linear head, by its names, and O
    begins at 0: the network starts as the one with a linear head of the same seed. |LN(e)| is at most sqrt(D), so that
    the branch adds at most sqrt(D) sum_j |O_j| (|V_j| + |c_j|) with c the bias of V, however large e is.

    Args:
        d_model: D, width of the embedding.
        heads: scores a stock.
        dropout: of the gated values, as in the authors' code.

    >>> RankGLU(8)(torch.zeros(5, 8)).shape
    torch.Size([5, 1])
    """

    def __init__(self, d_model: int, heads: int = 1, *, dropout: float = 0.0) -> None:
        super().__init__(d_model, heads)
        width = max(d_model // 2, 32)
        self.norm = nn.LayerNorm(d_model, elementwise_affine=False)  # V and G scale it
        self.value, self.gate = nn.Linear(d_model, width), nn.Linear(d_model, width)
        self.drop = Dropout(dropout)
        self.out = nn.Linear(width, heads, bias=False)
        nn.init.zeros_(self.out.weight)

    def forward(self, e: Tensor) -> Tensor:
        """Map embeddings (..., D) to scores (..., heads)."""
        n = self.norm(e)
        return super().forward(e) + self.out(self.drop(self.value(n) * torch.sigmoid(self.gate(n))))


def build_head(head: Head, d_model: int, heads: int, *, dropout: float) -> nn.Linear:
    """Build a head by its name.

    Raises: ValueError for another name.
    """
    check_choice("head", head, get_args(Head))
    return nn.Linear(d_model, heads) if head == "linear" else RankGLU(d_model, heads, dropout=dropout)


def read_out(head: nn.Linear, e: Tensor, present: Tensor | None) -> Tensor:
    """Scores (B, N), or (B, N, heads), of embeddings e (B, N, D), in the parameters' precision also under autocast.

    Absent is 0. A bfloat16 score has 8 bits: it would tie many of a market's stocks, and ranks are what counts.
    """
    with torch.autocast(e.device.type, enabled=False):
        score: Tensor = head(e.to(head.weight.dtype))
    if present is not None:
        score = torch.where(present[..., None], score, 0.0)
    return score[..., 0] if score.shape[-1] == 1 else score
