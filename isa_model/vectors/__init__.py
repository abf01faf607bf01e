"""Known-answer vectors of an instruction, for RTL test benches.

`vector.py` says what a vector is, `goals.py` what vectors of an instruction shall do, `draft.py` and `directed.py` build
vectors that do it, `make.py` adds random ones and the answers, `observer.py` reads off any vector what it does,
`coverage.py` counts that, `files.py` writes and reads the file forms.
"""
