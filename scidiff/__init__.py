"""Scientific diffusion models with certified samples."""

__version__ = "0.1.0"
