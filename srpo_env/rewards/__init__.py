"""The reward of SRPO: clusters, distances and progress rewards, in NumPy."""
