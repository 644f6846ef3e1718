"""What ``srpo-env benchmark sim`` measures."""
