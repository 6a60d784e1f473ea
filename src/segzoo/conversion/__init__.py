"""Original checkpoints and configs of the mmsegmentation family -> Hugging Face models.

``convert.convert_checkpoint`` converts a checkpoint; ``keys`` and ``rules`` define how each original component is
translated.
"""
