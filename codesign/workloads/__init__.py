"""Workloads: GEMM shapes of models, and the tensors that fill their operands."""
