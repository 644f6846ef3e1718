"""Everything that knows Gymnasium vector environments."""
