"""The watch: look upstream, measure what is new, write, publish, and say once what changed."""
