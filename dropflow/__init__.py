"""Drop a raw file into a bucket; get clean, model-ready data and a message, or a reason."""

__version__ = "0.1.0"
