"""Adapters for vector environments that do not have Gymnasium's interface, and for training code.

Each module needs the library in its name, so this package imports none of them.
"""
