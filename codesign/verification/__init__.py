"""What others need to check an implementation of an instruction: a package for RTL test benches, and a disclosure.

`scoreboard.c` and `coverage.c` run beside the golden model in C (isa_model/c_golden). `package.py` writes them for one
instruction, with a SystemVerilog and a cocotb bench. `disclosure.py` writes its parameters, C reference, pseudo-code and
vectors.
"""
