"""Numerics evidence: what each instruction computes of sampled GEMMs, and its errors."""
