"""Engines that give golden.py's results faster: `portable` (numpy), `cpu` (compiled C) and `gpu` (compiled CUDA).

`plan` proves from a spec alone what doubles can carry; `emit` writes the text that both compilers take, for a `target`.
"""
