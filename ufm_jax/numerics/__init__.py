"""Derivatives, eigensolvers and critical-point searches for any smooth function of any pytree."""
