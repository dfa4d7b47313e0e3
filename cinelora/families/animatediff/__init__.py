"""AnimateDiff on Stable Diffusion 1.5: its base, its motion modules, and how its two networks are fed."""
