"""Reads Courier's own configuration and start scripts, as /bin/sh does."""
