"""Guides: one file, one pair. Each ends with `PAIR = Pair(...)`."""

if __name__ != "ppvae.guides":
    raise ImportError("import this package as ppvae.guides, so that no class ever exists twice")
