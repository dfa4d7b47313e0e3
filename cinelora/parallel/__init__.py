"""Ranks: how they are launched, and how they share a sequence."""
