"""Measurements of ``srpo-env benchmark sim``."""
