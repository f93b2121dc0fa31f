"""What TransformerLens costs beside HuggingFace: time and memory, as ratios of runs that are interleaved in one process."""
