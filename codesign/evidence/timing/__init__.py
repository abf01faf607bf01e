"""How long kernels take on a Hopper GPU: measured where a record has it, modelled elsewhere, and what proposals change."""
