"""What the evidence is gathered on: GEMM shapes of real models, and tensors to fill them."""
