"""What today's GPU does: kernels that run on it, and records of their runs. Needs the `kernels` extra or a GPU machine."""
