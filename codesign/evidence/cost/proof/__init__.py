"""Proofs that the hardware of a unit computes what `isa_model.golden` defines (docs/proofs.md)."""
