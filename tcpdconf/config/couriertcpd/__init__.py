"""Translates couriertcpd's command line into a service. Pure, except for the host's port names."""
