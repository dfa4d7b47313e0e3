"""Footage: reading clips, finding shots, choosing samples; and the renderer of the clips that are shipped."""
