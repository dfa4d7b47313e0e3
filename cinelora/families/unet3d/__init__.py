"""ModelScope T2V, ZeroScope and VideoCrafter2: one UNet of clips, how it is loaded and fed."""
