"""Cast evidence: what a path of casts leaves of a tensor."""
