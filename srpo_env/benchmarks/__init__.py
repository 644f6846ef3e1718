"""Measurements of ``srpo-env benchmark`` and ``srpo-env check-reward``."""
