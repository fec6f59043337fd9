"""dsenv inside other frameworks: one module each, imported by its name, each an extra of its own."""
