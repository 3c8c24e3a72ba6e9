"""The report of stored runs: figures, an HTML page, Markdown, and a summary in the terminal."""
