"""Figures and metrics: values with intervals, what they measure, and how they are drawn."""
