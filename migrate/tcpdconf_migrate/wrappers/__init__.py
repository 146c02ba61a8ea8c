"""Translates the programs in front of couriertcpd, and their options, into keys of a service. Pure."""
