"""An object as a few bytes and its arrays, which another process reads where they lie: nothing is copied to read it."""

import io
import pickle
import warnings
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

Packed = tuple[bytes, list[npt.NDArray[np.uint8]]]


def packed(value: Any) -> Packed:
    """Pickle an object; the memory of its tensors and arrays stays where it is, as views beside the bytes (PEP 574).

    >>> head, arrays = packed({"x": torch.zeros(1000), "name": "panel"})
    >>> len(head) < 400, [array.nbytes for array in arrays]
    (True, [4000])
    """
    buffers: list[pickle.PickleBuffer] = []
    head = io.BytesIO()
    _Pickler(head, protocol=5, buffer_callback=buffers.append).dump(value)
    return head.getvalue(), [np.frombuffer(buffer.raw(), np.uint8) for buffer in buffers]


def unpacked(content: Packed) -> Any:
    """Give the object whose tensors and arrays are views of the packed ones, so read-only where those are."""
    head, arrays = content
    return pickle.loads(head, buffers=arrays)


class _Pickler(pickle.Pickler):
    """Pickles a tensor of a CPU as the array that it is."""

    def reducer_override(self, value: Any) -> Any:
        """Reduce a plain tensor; what has a gradient, another device or no twin in numpy goes as torch has it."""
        plain = type(value) is torch.Tensor and value.device.type == "cpu" and not value.requires_grad
        if not plain or value.layout != torch.strided or value.dtype == torch.bfloat16:
            return NotImplemented
        return _tensor, (value.contiguous().numpy(),)


def _tensor(array: npt.NDArray[Any]) -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)
