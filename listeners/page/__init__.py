"""The page that answers "where is my file?": what it shows, who may see it, and what it can do."""

from listeners.page.app import make_page

__all__ = ["make_page"]
