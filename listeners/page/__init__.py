"""The page that answers "where is my file?": what it shows, who may see it, and what it can do."""

from listeners.page.app import Page, make_page

__all__ = ["Page", "make_page"]
