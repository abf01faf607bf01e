"""Judges hardware proposals: reads a proposal, gathers evidence, judges its claims, writes the report."""
