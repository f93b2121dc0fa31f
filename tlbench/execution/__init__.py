"""Where code runs: a fork server for each environment of Python, and its one client. Knows nothing of what is measured."""
