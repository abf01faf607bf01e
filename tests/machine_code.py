"""Reading machine code in tests, which are skipped without a disassembler."""

import pytest

from kernels.bench import static


def dump(option: str, code: bytes) -> str:
    """Return `static.dump`, or skip the test."""
    try:
        return static.dump(option, code)
    except static.Unavailable as error:
        pytest.skip(str(error))


def instructions(code: bytes) -> list[static.Op]:
    """Return the instructions of a cubin with one function."""
    (found,) = static.functions(dump("-sass", code)).values()
    return found


def assert_no_stack(code: bytes, name: str = "", at_most: int = 0) -> None:
    """Fail if a function of a cubin uses more than some bytes of the stack."""
    found = static.usage(dump("-res-usage", code))
    assert found
    assert all(used["STACK"] <= at_most and used["LOCAL"] == 0 for used in found.values()), name
