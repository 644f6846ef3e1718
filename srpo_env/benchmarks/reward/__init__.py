"""Measurements of ``srpo-env benchmark reward``."""
