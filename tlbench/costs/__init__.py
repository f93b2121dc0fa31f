"""What TransformerLens costs relative to HuggingFace: time and memory, as ratios of runs interleaved in one process."""
