"""Figures and metrics: values with intervals, the quantities that they measure, and their plots."""
