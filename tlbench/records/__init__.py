"""What is kept of a measurement: plain values and their JSON. Imports no torch."""
