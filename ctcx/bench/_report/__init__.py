"""What the JSON of a run says, as tables, charts and pages."""
