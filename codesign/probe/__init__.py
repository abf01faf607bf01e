"""Probe: fit a spec of the language to a black box, and say what no question can show.

A box (`box`, `boxes`, `compiled_box`) answers questions (`questions`); `exchange` writes them to files for other machines. A
hypothesis is a spec as plain data (`hypotheses`). Exchanges of products show the orders of sums (`orders`, `structures`), and
`space` yields the hypotheses next to one. `scoring` compares what hypotheses compute with the answers, and `search` changes
them until one explains every answer. `directed` finds questions on which that one and its rivals differ, `fit` puts them to the
box, and `certificate` says what decided each field.
"""
