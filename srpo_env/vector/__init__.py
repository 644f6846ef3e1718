"""The wrapper for Gymnasium vector environments, its parts and its checks."""
