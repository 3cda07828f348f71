"""Published studies as short scripts over the public API, each with its settings in TOML files beside it."""
