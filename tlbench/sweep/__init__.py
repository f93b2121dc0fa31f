"""Measure a range of commits in jobs, which an engine runs on this machine or on many."""
