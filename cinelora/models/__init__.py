"""Wan2.1 and what is hung on it: checkpoints (``wan``), the embedded model (``tiny``), flow matching and LoRA."""
