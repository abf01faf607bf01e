"""The golden model of one instruction as C99, without Python at run time: for RTL test benches and for disclosure.

`golden.c` and `golden.h` say what golden.py says, on whole numbers of a fixed number of limbs. `source.py` writes an
instruction as the table that they read. The engines compute the same outputs far faster, in floating point; this one keeps
every value on the way, and computes each instruction that the language can say. The engines' own interpreter, lines.c, takes
any spec without a compiler and keeps nothing on the way; one file for both would be neither fast nor readable as a definition.
"""
