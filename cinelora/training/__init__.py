"""Training: the stages, the loop around them, what is saved and shown on the way."""
