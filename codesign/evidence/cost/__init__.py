"""Hardware cost: RTL from an instruction, compared with the model, synthesised, and measured against today's unit."""
