"""Training evidence: losses of a small model trained with any instruction's numerics, in DeepSeek-V3's FP8 framework."""
