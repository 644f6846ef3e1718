"""What ``srpo-env benchmark`` measures. Imported by commands only."""
