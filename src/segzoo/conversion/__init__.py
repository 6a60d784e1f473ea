"""Original checkpoints and configs of the mmsegmentation family -> Hugging Face models.

``convert.convert_checkpoint`` does the whole way; ``keys`` and ``rules`` say how each original component is named.
"""
