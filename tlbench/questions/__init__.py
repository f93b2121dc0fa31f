"""Where error enters: inside the network, along the sequence, through hooks, caches and gradients.

Each question has a module that measures it and a frozen record of figures. ``components`` are the words, ``profile`` and
``growth`` the arithmetic, and ``tlbench.reference.activations`` has the exact answers and HuggingFace's own errors.
"""
