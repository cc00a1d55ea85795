"""`rar-serve`: an HTTP server for one device, and the page that it serves."""
