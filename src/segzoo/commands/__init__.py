"""Subcommands of the ``segzoo`` program, one module each."""
