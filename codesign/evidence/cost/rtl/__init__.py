"""The generator: one dot-product unit in Amaranth from the stages of an instruction. Needs the extra `cost`."""
