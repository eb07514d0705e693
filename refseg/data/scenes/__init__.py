"""The embedded world: rendered scenes, and a language with exact meaning."""
