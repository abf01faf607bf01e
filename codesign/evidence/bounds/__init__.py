"""Error bounds that follow from the stages of an instruction, and inputs that come near them."""
