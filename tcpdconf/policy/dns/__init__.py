"""Decides about DNS lists and host names: what to ask, what answers mean, which to believe. Pure."""
