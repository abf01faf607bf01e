"""Verdicts: whether claims hold, what they depend on, and how proposals compare."""
