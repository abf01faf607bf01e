"""Probe: fit a spec of the language to a black box, and say what no question can show."""
