"""Where a transformer's weights and activations lie while it runs."""
