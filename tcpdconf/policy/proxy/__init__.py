"""The PROXY protocol: headers of both versions, and whose header a listener believes. Pure."""
