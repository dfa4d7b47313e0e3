"""The command line: from what is typed to a run that is under way in a directory of its own.

``programs`` lists the commands, ``parse`` sorts a command line, ``help`` describes what one takes, ``compose`` (which alone
knows Hydra and OmegaConf) makes a dataclass of it, ``preflight`` looks at the files it names, ``run_dir`` makes the
directory, ``sweep`` starts several runs, and ``main`` does these in order. Settings themselves are ``cinelora.config``.
"""
