"""Traffic evidence: bytes moved by a layer's step, and their energy."""
