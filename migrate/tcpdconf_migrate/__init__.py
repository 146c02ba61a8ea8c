"""Translates an existing couriertcpd set-up into tcpdconf's TOML. It imports only `tcpdconf.config`."""
