"""The questions: how wrong are the logits, and where does error enter (blocks, sequence, hooks, caches, gradients)?

Each question has a module that measures it, and a frozen record in :mod:`tlbench.records`. :mod:`tlbench.components` names
the quantities, :mod:`tlbench.metrics` has the arithmetic, and :mod:`tlbench.reference` the goldens and HuggingFace's own
errors.
"""
