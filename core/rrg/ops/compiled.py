"""How CPU kernels are compiled by numba: functions of arrays, and C functions that threads share. Importing it imports
numba.

A C function works a job off, one record of counters, sizes and addresses: no Python runs in it, so that threads never
wait for its lock. `rrg.ops.threads.share_out` runs it on several.
"""

import math
from collections.abc import Callable
from typing import Any, TypeVar

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core.cgutils import voidptr_t
from numba.core.compiler import Compiler
from numba.extending import intrinsic, overload, register_jitable
from numpy.polynomial import Chebyshev, Polynomial
from numpy.typing import NDArray

Array = NDArray[Any]
Function = TypeVar("Function", bound=Callable[..., Any])

# a·b + c may be rounded once. Sums may change their order only where no exponential is taken: its rounding is exact.
CONTRACT: Any = {"fastmath": {"contract"}}
SUMS: Any = {"fastmath": {"contract", "reassoc", "nsz"}}


class Apart(Compiler):
    """Arrays given do not overlap: no loop tests it, nor has a second form for arrays that do."""

    def define_pipelines(self) -> list[Any]:
        self.state.flags.noalias = True
        pipelines: list[Any] = super().define_pipelines()
        return pipelines


def kept_on_disk(compile: Callable[[bool], Any]) -> Any:
    """compile(True), or compile(False) where no cache folder can be written."""
    try:
        return compile(True)
    except RuntimeError:
        return compile(False)


def compiled(**options: Any) -> Callable[[Function], Function]:
    settings: Any = {"nogil": True, "error_model": "numpy", "pipeline_class": Apart, **options}
    return lambda function: kept_on_disk(lambda cache: numba.njit(cache=cache, **settings)(function))


def c_function(work: Callable[[Any], None], job: np.dtype[Any]) -> Any:
    """Given the address of a job; any number of threads at once. Compiled here, unless it lies on disk."""
    signature = types.void(types.CPointer(numba.from_dtype(job)))
    return kept_on_disk(lambda cache: numba.cfunc(signature, error_model="numpy", cache=cache)(work))


@intrinsic
def _pointer(_: Any, address: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], voidptr_t)

    return types.voidptr(address), generate


@register_jitable
def array_at(address: int, shape: Any, dtype: Any) -> Any:
    return numba.carray(_pointer(address), shape, dtype)


@intrinsic
def taken(_: Any, job: Any, counter: Any) -> Any:
    """The value of one of a job's first fields, a counter, which is one more for whoever comes next."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        word = ir.IntType(64)
        place = builder.gep(builder.bitcast(arguments[0], word.as_pointer()), [arguments[1]])
        return builder.atomic_rmw("add", place, word(1), "monotonic")

    return types.int64(job, counter), generate


def fitted(function: Callable[[Array], Array], degree: int, low: float, high: float) -> list[np.float32]:
    """Chebyshev interpolation on [low, high]; coefficients of 1, x, x² and so on."""
    polynomial = Chebyshev.interpolate(function, degree, (low, high)).convert(kind=Polynomial)
    return [np.float32(coefficient) for coefficient in polynomial.coef]


ZERO, ONE = np.float32(0), np.float32(1)
# Of a degree that leaves E0 and E1 at 1: an error near 0 would add up, step by step, where a state decays slowly.
E0, E1, E2, E3, E4, E5, E6 = fitted(np.exp, 6, -math.log(2) / 2, math.log(2) / 2)
# Adding ROUND leaves the nearest whole number, plus the exponent's offset 127, in the low bits.
LOG2E, LN2, ROUND = np.float32(1 / math.log(2)), np.float32(math.log(2)), np.float32(1.5 * 2**23 + 127)
LOWEST, HIGHEST, BITS = np.float32(-88), np.float32(89), np.int32(23)


def exp(x: Any) -> Any:
    """float32: exp to 3 units in the last place, or to |x| / 2 where the processor rounds a·b + c twice; 0 below -87.7,
    infinite above 88.3. float64: math.exp.
    """
    return math.exp(x)


@overload(exp, jit_options=CONTRACT)
def _exp_of(x: Any) -> Any:
    def library(x: Any) -> Any:
        return math.exp(x)

    def polynomial(x: Any) -> Any:
        x = HIGHEST if x > HIGHEST else x  # so that not a number stays one
        x = LOWEST if x < LOWEST else x
        shifted = x * LOG2E + ROUND
        r = x - (shifted - ROUND) * LN2
        power = np.int32(np.float32(shifted).view(np.int32) << BITS).view(np.float32)
        return ((((((E6 * r + E5) * r + E4) * r + E3) * r + E2) * r + E1) * r + E0) * power

    return polynomial if x == numba.float32 else library
