"""HTML pages: one set of templates and charts for the reports of all commands."""
