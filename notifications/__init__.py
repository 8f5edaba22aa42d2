"""Success and failure messages through Apprise."""
