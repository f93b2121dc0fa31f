"""Records of measurements: plain values and their JSON. Imports no torch."""
