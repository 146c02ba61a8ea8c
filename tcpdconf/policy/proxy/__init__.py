"""Parses PROXY protocol headers of both versions and decides whose header a listener believes. Pure."""
