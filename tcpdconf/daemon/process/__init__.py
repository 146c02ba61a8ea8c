"""The parts of which every process of the daemon is made: loop, signals, log, channel, rights.

Nothing here knows of services, connections or DNS.
"""
