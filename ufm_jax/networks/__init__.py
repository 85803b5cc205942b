"""The paper's deep networks: data, models, training, and their last layer as a point of the landscape.

Needs the extra `networks` (flax, pooch). Parameters, images and gradients are float32; what is measured is
accumulated in float64, so the caller turns it on.
"""
