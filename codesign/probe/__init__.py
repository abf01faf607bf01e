"""Probe: fit a spec of the language to a black box, and say what no question can show.

A box (`box`, `boxes`, `compiled_box`) answers questions (`questions`), for machines elsewhere in files (`exchange`). A
hypothesis is a spec as plain data (`hypotheses`): exchanges of products show the orders of sums (`orders`, `structures`), and
`space` yields the hypotheses next to one. They are run on the answers (`scoring`) and changed until one explains all
(`search`). `fit` asks where that one and its rivals differ, which `directed` searches for; `certificate` says what decided each
field.
"""
