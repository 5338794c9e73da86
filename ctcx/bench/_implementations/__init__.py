"""Implementations that are measured: backends, peers and lower bounds."""
