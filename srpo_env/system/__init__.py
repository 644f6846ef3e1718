"""What the package asks of the machine: cores, memory, installed extras, and files read safely."""
