"""The golden model of one instruction as C99, without Python at run time: for RTL test benches and for disclosure.

`golden.c` and `golden.h` say what golden.py says, on whole numbers of a fixed number of limbs. `source.py` writes an
instruction as the table that they read. The engines compute the same outputs far faster, in floating point; this one keeps
every value on the way, and computes each instruction that the language can say.
"""
