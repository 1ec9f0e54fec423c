"""Generative models, one a file."""

if __name__ != "ppvae.models":
    raise ImportError("import this package as ppvae.models, so that no class ever exists twice")
