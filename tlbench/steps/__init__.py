"""Every step in a range of TransformerLens's history: which commit changed which cells."""
