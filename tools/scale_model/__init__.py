"""The factory of the embedded models: footage they are taught with, encoders from nothing, and every weight of a transformer.

``python -m tools.scale_model render|encoders|adopt|distil|animatediff`` are its commands; ``train.py stage=pretrain`` and
``data=rendered`` come in by ``cinelora.clone_only``, which names what they find here. The package never imports this folder.
"""
