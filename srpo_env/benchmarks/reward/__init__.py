"""What ``srpo-env benchmark reward`` measures."""
