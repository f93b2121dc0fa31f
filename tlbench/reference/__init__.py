"""Reference logits: what TransformerLens is compared with, never made by the code under test."""
