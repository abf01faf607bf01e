"""Evidence on whole language models: perplexity and next-token distributions on a proposal's numerics."""
