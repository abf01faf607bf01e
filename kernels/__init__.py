"""What today's GPU does: kernels that run on it, and records of their runs. Needs the `kernels` extra or a GPU machine.

Importing this package gives isa_model.matmul its engine `native`, the chip's own instructions (kernels/native.py).
"""

from typing import Any

from isa_model.matmul import register


def _native(*arguments: Any) -> Any:
    from kernels import native

    return native.engine(*arguments)


register("native", _native)
