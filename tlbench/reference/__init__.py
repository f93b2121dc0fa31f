"""What TransformerLens is compared with: goldens and HuggingFace's own figures, never computed by the code under test."""
