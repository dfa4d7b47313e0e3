"""Encode once, read many times: the content-addressed cache, the data set over it, and the order of its samples."""
