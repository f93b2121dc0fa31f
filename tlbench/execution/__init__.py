"""Where a measurement runs, and that it runs once."""
