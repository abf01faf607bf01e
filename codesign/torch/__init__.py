"""Models of torch whose matrix products are those of an instruction. torch is imported on first use, not with codesign."""
