"""Twins of the compiled modules in plain Python, for installs without a compiler."""
