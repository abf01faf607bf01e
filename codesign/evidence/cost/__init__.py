"""Hardware cost: RTL from an instruction, proven equal to the golden model, synthesised, compared with today's unit."""
