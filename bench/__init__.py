"""Measurements. Not part of the package."""
