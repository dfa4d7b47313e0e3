"""Settings: from a command line to a typed dataclass. Nothing here imports torch.

``schema`` holds the dataclasses, ``keys`` sorts a command line, ``compose`` (which alone knows Hydra and OmegaConf)
makes a dataclass of it, ``check`` refuses what contradicts itself, ``store`` keeps it as a file, and ``command`` is
what the two scripts share.
"""
