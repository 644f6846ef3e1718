"""The reward of SRPO: distances, clusters and progress rewards as pure NumPy."""
