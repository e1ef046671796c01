"""Slow MASTER of one day, head by head, stock by stock, step by step; written to be read beside the paper.

It takes the tensors by the authors' names and never sees a mask: what is absent is left out of the lists.
"""

import math

import torch


def random_checkpoint(d_feat, d_model, d_gate=0, *, seed=0, steps=100):
    """State dict by the authors' names, with random tensors of a healthy size and norms away from 1 and 0."""
    generator = torch.Generator().manual_seed(seed)

    def matrix(rows, columns):
        return torch.randn(rows, columns, generator=generator) / math.sqrt(columns)

    def vector(size, center=0.0):
        return center + 0.2 * torch.randn(size, generator=generator)

    state = {"layers.0.weight": matrix(d_model, d_feat), "layers.0.bias": vector(d_model)}
    state["layers.1.pe"] = torch.tensor([[position(t, c, d_model) for c in range(d_model)] for t in range(steps)])
    for layer in ("layers.2", "layers.3"):
        for name in ("qtrans", "ktrans", "vtrans", "ffn.0", "ffn.3"):
            state[f"{layer}.{name}.weight"] = matrix(d_model, d_model)
        for name in ("norm1", "norm2", "ffn.0", "ffn.3"):
            state[f"{layer}.{name}.bias"] = vector(d_model)
        for name in ("norm1", "norm2"):
            state[f"{layer}.{name}.weight"] = vector(d_model, center=1.0)
    state["layers.4.trans.weight"] = matrix(d_model, d_model) / 2
    state |= {"layers.5.weight": matrix(1, d_model), "layers.5.bias": vector(1)}
    if d_gate:
        state["feature_gate.trans.weight"] = 5 * matrix(d_feat, d_gate)
        state["feature_gate.trans.bias"] = vector(d_feat)
    return state


def position(step, column, d_model):
    angle = step / 10_000 ** (2 * (column // 2) / d_model)
    return math.cos(angle) if column % 2 else math.sin(angle)


def layer_norm(row, weight, bias):
    centered = row - row.mean()
    return centered / torch.sqrt((centered**2).mean() + 1e-5) * weight + bias


def softmax(logits):
    powers = torch.exp(logits - logits.max())
    return powers / powers.sum()


def aggregate(rows, state, layer, heads, scaled):
    """One attention layer over a list of rows (L, D): the new rows, and one (L, L) matrix per head."""
    part = {name.removeprefix(layer): value for name, value in state.items() if name.startswith(layer)}
    rows = [layer_norm(row, part["norm1.weight"], part["norm1.bias"]) for row in rows]
    width = len(rows[0]) // heads
    matrices = []
    mixed = [[] for _ in rows]
    for head in range(heads):
        own = slice(head * width, (head + 1) * width)
        query, key, value = (torch.stack([part[f"{name}trans.weight"][own] @ row for row in rows]) for name in "qkv")
        logits = query @ key.T / (math.sqrt(width) if scaled else 1.0)
        matrices.append(torch.stack([softmax(line) for line in logits]))
        for i, line in enumerate(matrices[-1]):
            mixed[i].append(sum(weight * row for weight, row in zip(line, value, strict=True)))
    out = []
    for row, pieces in zip(rows, mixed, strict=True):
        row = layer_norm(row + torch.cat(pieces), part["norm2.weight"], part["norm2.bias"])
        inner = torch.clamp(part["ffn.0.weight"] @ row + part["ffn.0.bias"], min=0)
        out.append(row + part["ffn.3.weight"] @ inner + part["ffn.3.bias"])
    return out, matrices


def master_day(state, x, present=None, market=None, *, beta=5.0, t_heads=4, s_heads=2, variant="official"):
    """Scores (N,) of one day x (N, T, F), present (N, T) bool; 0 for a stock absent at the last step.

    Also returns attention matrices: `intra` of each stock, `inter` of each step, `temporal` of each stock.
    """
    n_stocks, n_steps, d_feat = x.shape
    d_model = len(state["layers.0.bias"])
    steps = [[t for t in range(n_steps) if present is None or present[u, t]] for u in range(n_stocks)]
    alpha = torch.ones(d_feat, dtype=x.dtype)
    if market is not None:
        alpha = state["feature_gate.trans.weight"] @ market + state["feature_gate.trans.bias"]
        alpha = d_feat * softmax(alpha / beta)
    kept = {"intra": {}, "inter": {}, "temporal": {}}
    h, z, score = {}, {}, torch.zeros(n_stocks, dtype=x.dtype)
    for u in range(n_stocks):
        rows = []
        for t in steps[u]:
            place = torch.tensor([position(t, c, d_model) for c in range(d_model)], dtype=x.dtype)
            rows.append(state["layers.0.weight"] @ (alpha * x[u, t]) + state["layers.0.bias"] + place)
        if rows:
            rows, kept["intra"][u] = aggregate(rows, state, "layers.2.", t_heads, variant == "paper")
        h |= {(u, t): row for t, row in zip(steps[u], rows, strict=True)}
    for t in range(n_steps):
        stocks = [u for u in range(n_stocks) if t in steps[u]]
        if stocks:
            rows, kept["inter"][t] = aggregate([h[u, t] for u in stocks], state, "layers.3.", s_heads, True)
            z |= {(u, t): row for u, row in zip(stocks, rows, strict=True)}
    w = state["layers.4.trans.weight"]
    for u in range(n_stocks):
        if n_steps - 1 not in steps[u]:
            continue
        last = z[u, n_steps - 1]
        pairs = [(z[u, t], last) if variant == "paper" else (w @ z[u, t], last) for t in steps[u]]
        lam = kept["temporal"][u] = softmax(torch.stack([left @ (w @ right) for left, right in pairs]))
        e = sum(weight * z[u, t] for weight, t in zip(lam, steps[u], strict=True))
        score[u] = state["layers.5.weight"][0] @ e + state["layers.5.bias"][0]
    return score, kept


def induced(net, rows):
    """Attention of one group's present rows (L, D) through the learned points of `net`, one product at a time."""
    heads, points = net.heads, list(net.points)
    d_model = len(points[0])
    width = d_model // heads
    query, key, value = net.qkv.weight.chunk(3)
    to_key, to_value = net.kv.weight.chunk(2)

    def attend(asks, keys, values):
        out = [[] for _ in asks]
        for head in range(heads):
            own = slice(head * width, (head + 1) * width)
            for i, ask in enumerate(asks):
                weights = softmax(torch.stack([ask[own] @ one[own] for one in keys]) / math.sqrt(width))
                out[i].append(sum(weight * one[own] for weight, one in zip(weights, values, strict=True)))
        return [torch.cat(pieces) for pieces in out]

    seen = attend(points, [key @ row for row in rows], [value @ row for row in rows])
    points = [
        layer_norm(point + one, net.norm1.weight, net.norm1.bias) for point, one in zip(points, seen, strict=True)
    ]
    inner = [torch.clamp(net.ffn[0].weight @ point + net.ffn[0].bias, min=0) for point in points]
    points = [
        layer_norm(point + net.ffn[2].weight @ one + net.ffn[2].bias, net.norm2.weight, net.norm2.bias)
        for point, one in zip(points, inner, strict=True)
    ]
    return attend([query @ row for row in rows], [to_key @ p for p in points], [to_value @ p for p in points])
