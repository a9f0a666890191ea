"""Numbers, tables and figures as text, Markdown and PNG."""
