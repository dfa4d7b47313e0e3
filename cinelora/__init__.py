"""cinelora: two-stage LoRA fine-tuning of Wan2.1 for a film's look in motion."""

__version__ = "0.1.0"
