"""What `dropflow apply` did to one thing on the server."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Change:
    """`action` is created, updated, unchanged or removed."""

    kind: str
    name: str
    action: str
