"""From noise to a clip: the denoising loops, and how a sequence is shared between ranks."""
