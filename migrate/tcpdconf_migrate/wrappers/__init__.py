"""The programs that stand in front of couriertcpd: their options, and the keys that they become. Pure."""
