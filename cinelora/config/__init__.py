"""Settings: ``schema`` holds the typed dataclasses, ``compose`` turns a command line into one of them, ``check`` refuses
what contradicts itself. Only ``compose`` knows Hydra and OmegaConf; nothing here imports torch."""
