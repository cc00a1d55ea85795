"""Graphs in OpenVINO, on the CPU."""
