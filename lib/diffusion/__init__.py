"""Latent diffusion inpainting: components on disk, the one training loop, the batched sampler."""
