"""Wan2.1: its checkpoints, encoders, VAE and transformers; and the embedded model of that family."""
