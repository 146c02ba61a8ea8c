"""Turns an existing couriertcpd set-up into tcpdconf's TOML. Knows only `tcpdconf.config`."""
