"""LoRA adapters: layers, files, ranks, and the run directory they lie in."""
