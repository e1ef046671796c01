"""Where a network runs: its device and precision, and random numbers that leave those of others alone."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from qlib_ext import ranks

PRECISIONS = ("auto", "float32", "bfloat16")
DEVICE = re.compile(r"cpu|cuda(:\d+)?")
THREADS = 4  # of deterministic trainings
CPU = torch.device("cpu")


def pick_device(device: Any) -> torch.device:
    """Return the device; "auto" takes a GPU where there is one. Several ranks of a machine take a GPU each.

    Raises: ValueError for anything but "auto", "cpu", "cuda" and "cuda:<number>", and for an absent GPU.
    """
    if device == "auto":
        return _own_card("cuda") if torch.cuda.is_available() else CPU
    if not isinstance(device, str) or not DEVICE.fullmatch(device):
        raise ValueError(f"device={device!r}; allowed: 'auto', 'cpu', 'cuda', 'cuda:<number>'")
    if device == "cpu":
        return CPU
    if not torch.cuda.is_available():
        raise ValueError(f"device={device!r} but torch sees no GPU: use device: cpu or device: auto")
    card, count = _own_card(device), torch.cuda.device_count()
    if card.index is not None and card.index >= count:
        seen = ", ".join(f"cuda:{index}" for index in range(count))
        raise ValueError(f"device={device!r} but torch sees only {seen}: use one of them, or device: cuda")
    return card


def _own_card(device: str) -> torch.device:
    """Return the GPU of this rank, of as many as its machine has; without ranks, the one that was asked for."""
    (number, of), count = ranks.local(), torch.cuda.device_count()
    if of == 1:
        return torch.device(device)
    if ":" in device:
        raise ValueError(f"device={device!r} would be that of {of} ranks: use device: cuda, of which each takes one")
    if of > count:
        raise ValueError(f"{of} ranks on a machine with {count} GPUs: start as many (--nproc-per-node), or device: cpu")
    return torch.device(device, number)


def nearest_device(device: str) -> torch.device:
    """Return the device that was asked for, or the nearest there is: any GPU for an absent one, the CPU for none."""
    if not device.startswith("cuda"):
        return pick_device(device)
    if not torch.cuda.is_available():
        return CPU
    index = torch.device(device).index
    return pick_device(device if index is None or index < torch.cuda.device_count() else "cuda")


def pick_precision(precision: str, device: torch.device) -> str:
    """Return "float32" or "bfloat16"; "auto" takes bfloat16 where the hardware multiplies it natively."""
    if precision not in PRECISIONS:
        raise ValueError(f"precision={precision!r}; allowed: {', '.join(PRECISIONS)}")
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    asks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")  # torch has no public names for these yet
    native = device.type == "cpu" and any(getattr(torch.cpu, ask, bool)() for ask in asks)
    return "bfloat16" if native else "float32"


@contextmanager
def seeded(seed: int, device: torch.device = CPU) -> Iterator[None]:
    """Seed torch's generators of the CPU and of one device within, and put them back afterwards.

    `torch.manual_seed` would seed every GPU, those of other programs' parts too, and nothing would put them back.
    """
    with torch.random.fork_rng(devices=_cards(device)):
        seed_generators(seed, device)
        yield


def seed_generators(seed: int, device: torch.device) -> None:
    """Seed the generators of the CPU and of one device."""
    torch.default_generator.manual_seed(seed)
    for card in _cards(device):
        torch.cuda.default_generators[card].manual_seed(seed)


@contextmanager
def fixed_threads(fixed: bool, device: torch.device = CPU) -> Iterator[None]:
    """Compute on a CPU by `THREADS` threads within, whatever the machine and its other programs, where it is asked for.

    How a sum is cut among threads decides its rounding. More threads than processors give the same bits, only slower.
    """
    if not fixed or device.type != "cpu":
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def generator_states(device: torch.device) -> list[Tensor]:
    """Read the states of the generators that `seeded` seeds: the CPU's, then the GPU's."""
    return [torch.get_rng_state(), *(torch.cuda.get_rng_state(card) for card in _cards(device))]


def set_generator_states(states: list[Tensor], device: torch.device) -> None:
    """Put the generators where `generator_states` has read them."""
    torch.set_rng_state(states[0])
    for card, state in zip(_cards(device), states[1:], strict=True):
        torch.cuda.set_rng_state(state, card)


def _cards(device: torch.device) -> list[int]:
    if device.type != "cuda":
        return []
    return [torch.cuda.current_device() if device.index is None else device.index]
