"""Home of the kernel packages under ``kernels/``, which are installed here."""
