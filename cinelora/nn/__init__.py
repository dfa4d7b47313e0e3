"""Parts of networks that model families share."""
