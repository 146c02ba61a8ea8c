"""couriertcpd's command line as the keys of a service. Pure but for the host's names of ports."""
