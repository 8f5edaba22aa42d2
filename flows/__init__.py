"""Prefect flows that prepare objects, and the pure pandas/scikit-learn code below them."""
