"""What machine code holds, for the tests that look into it; they are skipped where no disassembler is."""

import pytest

from kernels.bench import static


def dump(option: str, code: bytes) -> str:
    """As `static.dump`."""
    try:
        return static.dump(option, code)
    except static.Unavailable as error:
        pytest.skip(str(error))


def instructions(code: bytes) -> list[static.Op]:
    """Of a cubin with one function."""
    (found,) = static.functions(dump("-sass", code)).values()
    return found


def assert_no_stack(code: bytes, name: str = "") -> None:
    """Every register of a cubin's one function stays one."""
    (used,) = static.usage(dump("-res-usage", code)).values()
    assert used["STACK"] == used["LOCAL"] == 0, name
