"""From what callers pass to what kernels get."""
