"""IEEE arithmetic whatever the floating-point mode of the thread.

Other libraries may leave a thread flushing subnormal numbers to zero (`torch.set_flush_denormal(True)`, code built with
-ffast-math) or rounding in another direction. Results would then be silently wrong. So public functions switch the mode
for the duration of a call and restore it; threads started meanwhile inherit the mode (POSIX, pthread_create).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, wraps
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

# Variables, since Python folds constants.
_ONE, _HALF, _SMALLEST_NORMAL = 1.0, 0.5, 2.0**-1022
_MORE_THAN_HALF, _LESS_THAN_HALF = 0.75 * 2.0**-52, 0.25 * 2.0**-52
"""Fractions of the last place of 1."""


def in_ieee_mode(function: Callable[P, T]) -> Callable[P, T]:
    """Decorate a function so that it keeps subnormals and rounds to nearest even, whatever the thread's mode.

    The function raises ValueError if the thread's mode is different and cannot be switched on this system.
    """

    @wraps(function)
    def switched(*arguments: P.args, **keywords: P.kwargs) -> T:
        if is_ieee():
            return function(*arguments, **keywords)
        import ctypes

        switch = _switch()
        before = ctypes.create_string_buffer(512)  # fenv_t has 8 to 32 bytes
        if switch is not None:
            get, put, default = switch
            get(before)
            put(default)
        try:
            if not is_ieee():
                raise ValueError(
                    "this thread flushes subnormal numbers to zero or does not round to nearest, so results would be "
                    "wrong: switch that off (torch.set_flush_denormal(False), fesetround)"
                )
            return function(*arguments, **keywords)
        finally:
            if switch is not None:
                put(before)

    return switched


def is_ieee() -> bool:
    """Return whether this thread's arithmetic keeps subnormals, read and written, and rounds to nearest even."""
    keeps = _SMALLEST_NORMAL * _HALF != 0.0
    return keeps and _ONE + _MORE_THAN_HALF != 1.0 and _ONE + _LESS_THAN_HALF == 1.0


@cache
def _switch() -> tuple[Callable[[Any], Any], Callable[[Any], Any], Any] | None:
    """Return C's fegetenv, fesetenv and FE_DFL_ENV; None if the C library has none that we know."""
    import ctypes

    for name in (None, "libm.so.6"):
        try:
            library = ctypes.CDLL(name)
            get, put = library.fegetenv, library.fesetenv
        except (OSError, TypeError, AttributeError):
            continue
        try:
            default: Any = ctypes.byref(ctypes.c_char.in_dll(library, "_FE_DFL_ENV"))  # macOS
        except ValueError:
            default = ctypes.c_void_p(-1)  # glibc and musl
        return get, put, default
    return None
