"""Pre-trained backbones: one module a kind of file."""
