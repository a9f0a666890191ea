"""Reports from saved results: contents, sections, figures."""
