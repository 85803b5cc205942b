"""Landscapes to explore: one file each, and a folder for the paper's."""
