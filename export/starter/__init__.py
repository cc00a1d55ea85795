"""The default bundle, from models that install as Python packages."""
