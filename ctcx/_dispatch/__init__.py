"""Which backend computes a call, and why not the others."""
