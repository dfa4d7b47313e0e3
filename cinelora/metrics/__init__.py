"""Numbers about clips, as torchmetrics classes."""
