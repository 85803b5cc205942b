"""The unconstrained feature model: its objective, exact derivatives, symmetries and theory."""
