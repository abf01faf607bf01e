"""Bytes that a layer's step moves, and the energy that takes."""
