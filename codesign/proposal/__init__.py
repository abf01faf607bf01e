"""Proposals: the language of their YAML files, reading and checking, and the variants they are compared with."""
