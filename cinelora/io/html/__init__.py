"""Pages and figures that need nothing but a browser: one file, no network."""
