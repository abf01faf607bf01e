"""Known-answer vectors of an instruction, for RTL test benches.

- `vector.py`: what a vector is. `vector_files.py`: its file forms.
- `goals.py`: the bins of coverage that vectors of an instruction should fall into; `reach.py`: those that none can.
- `construct.py`, `directed.py`, `ties.py`: vectors built for a goal. `make.py`: these, random ones, and the results.
- `observer.py`: the bins that a given vector falls into. `coverage.py`: the number of vectors in each bin.
"""
