"""The public API: settings, runs, clips and adapters from Python, by the same ways as the commands.

Enters: settings as they are typed, or paths. Leaves: typed settings, finished runs, pixels, tensors. Everything here is
re-exported by ``cinelora`` itself: ``from cinelora import open_clip``.
"""

from cinelora.adapters.adapter_file import read_adapter
from cinelora.footage.manifest import read_manifest
from cinelora.footage.read_frames import read_frames
from cinelora.footage.scan_folder import open_clip

__all__ = ["open_clip", "read_adapter", "read_frames", "read_manifest"]
