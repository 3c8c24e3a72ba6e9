"""The report: figures, the HTML page, Markdown, and a summary in the terminal, from stored runs."""
