"""Right answers, which share no code with any kernel."""
