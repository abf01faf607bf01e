"""Proposals: what a YAML file may say, how it is read and checked, and what it is compared with."""
