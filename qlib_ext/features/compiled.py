"""How kernels are compiled: by numba, kept on disk where a folder may be written, without numba not at all."""

from collections.abc import Callable
from typing import Any

try:
    from numba import njit
except ImportError:  # the kernels stay importable; `require_numba` tells what to install
    njit = None

# threads of our own (nogil) instead of numba's parallel=True: a fifth of the compile time, and safe to fork afterwards
_OPTIONS: Any = {"error_model": "numpy", "nogil": True}


def with_options(**options: Any) -> Callable[[Any], Any]:
    """Give numba's decorator with our options.

    Where neither the package's folder nor the user's cache may be written, each process compiles anew; the environment
    variable NUMBA_CACHE_DIR names another folder.
    """

    def decorate(function: Any) -> Any:
        if njit is None:
            return function
        try:
            return njit(**_OPTIONS, **options, cache=True)(function)
        except RuntimeError:  # no folder for the cache
            return njit(**_OPTIONS, **options)(function)

    return decorate


jit = with_options()
inner = with_options(no_cpython_wrapper=True, no_cfunc_wrapper=True)  # called by kernels only: they compile faster so
