"""Data carried with the package: published numbers and the emissions of a real recogniser."""
