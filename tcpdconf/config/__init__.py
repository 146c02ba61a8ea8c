"""Models, loads and renders configurations. It starts no process and opens no socket.

It knows neither policy nor the daemon.
"""
