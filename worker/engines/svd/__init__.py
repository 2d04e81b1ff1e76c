"""Stable Video Diffusion between a picture and its frames: diffusers' models, without what its pipeline wastes."""
