"""Evidence about a proposal, one folder for each kind."""
