"""Timing evidence: measured and modelled times of kernels on a Hopper GPU, and of a layer's step."""
