"""Training evidence: DeepSeek-V3's FP8 framework on any instruction's numerics, and what the loss says of it."""
