"""Recognition by engines that others run: Ray, Triton, and a server. Each module imports only what it needs."""
