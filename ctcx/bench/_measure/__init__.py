"""Measure: workers in processes of their own, which take turns."""
