"""What is neither a test nor documentation: performance figures, long checks, scripts that print tables of docs."""
