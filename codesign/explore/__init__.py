"""Exploration of design spaces: points of a space, their results in files, search, and the Pareto front as a page."""
