"""An object as a few bytes and its arrays, which another process reads where they lie: nothing is copied to read it."""

import io
import pickle
import warnings
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

Packed = tuple[bytes, list[npt.NDArray[np.uint8]]]
WRITTEN = (
    "a tensor that jobs share was written in place: others have read what is no longer the data. Have the model write "
    "to a copy (`x.clone()`), or share nothing (RayTrainer: share: false)"
)


def packed(value: Any, pickler: Any = pickle.Pickler) -> Packed:
    """Pickle an object; the memory of its tensors and arrays stays where it is, as views beside the bytes (PEP 574).

    `pickler`: the class that does all else, such as cloudpickle's.

    >>> head, arrays = packed({"x": torch.zeros(1000), "name": "panel"})
    >>> len(head) < 400, [array.nbytes for array in arrays]
    (True, [4000])
    """
    buffers: list[pickle.PickleBuffer] = []
    head = io.BytesIO()
    _by_tensor(pickler)(head, protocol=5, buffer_callback=buffers.append).dump(value)
    return head.getvalue(), [np.frombuffer(buffer.raw(), np.uint8) for buffer in buffers]


def unpacked(content: Packed, views: list[torch.Tensor] | None = None) -> Any:
    """Give the object whose tensors and arrays are views of the packed ones, so arrays read-only where those are.

    `views`: takes the tensors, which torch knows not to be read-only: see `refuse_written`.
    """
    head, arrays = content
    return _Unpickler(io.BytesIO(head), [] if views is None else views, buffers=arrays).load()


def refuse_written(views: list[torch.Tensor]) -> None:
    """Raise ValueError where torch has written into a view that others read.

    >>> views = []
    >>> _ = unpacked(packed(torch.zeros(3)), views).add_(1)
    >>> refuse_written(views)
    Traceback (most recent call last):
    ValueError: a tensor that jobs share was written in place: ...
    """
    if any(view._version for view in views):  # torch counts what writes into a tensor or its views
        raise ValueError(WRITTEN)


@lru_cache
def _by_tensor(pickler: Any) -> Any:
    """Make a pickler one that pickles a tensor of a CPU as the array that it is."""

    class Pickler(pickler):
        def reducer_override(self, value: Any) -> Any:
            """Reduce a plain tensor; what has a gradient, another device or no twin in numpy goes as torch has it."""
            plain = type(value) is torch.Tensor and value.device.type == "cpu" and not value.requires_grad
            if plain and value.layout == torch.strided and value.dtype != torch.bfloat16:
                return _tensor, (value.contiguous().numpy(),)
            other = getattr(super(), "reducer_override", None)
            return NotImplemented if other is None else other(value)

    return Pickler


class _Unpickler(pickle.Unpickler):
    """Notes the tensors that it makes of arrays."""

    def __init__(self, file: io.BytesIO, views: list[torch.Tensor], **options: Any) -> None:
        super().__init__(file, **options)
        self.views = views

    def find_class(self, module: str, name: str) -> Any:
        """Find as pickle does."""
        found = super().find_class(module, name)
        return self._view if found is _tensor else found

    def _view(self, array: npt.NDArray[Any]) -> torch.Tensor:
        self.views.append(_tensor(array))
        return self.views[-1]


def _tensor(array: npt.NDArray[Any]) -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)
