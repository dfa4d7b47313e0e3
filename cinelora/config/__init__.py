"""Settings, once they are read: typed dataclasses. Nothing here imports torch, Hydra or the command line.

``schema`` declares every setting once, with all that is known about it; ``fields`` reads these declarations, ``rules``
refuses values that contradict each other, ``store`` keeps settings as a file, and ``numbers`` names what a run logs.
"""
