"""Who is told what, and when, as a dataset declares it under `notify:`."""

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from dropflow.columns import Strict

Kind = Literal["success", "failure", "waiting", "rejected", "recovered", "missing", "late", "canary"]
When = Literal["now", "digest", "never"]
Tag = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$")]


class Notify(Strict):
    """now: at once, the same again counted. digest: one message once nothing is in flight any more."""

    success: When = "digest"
    failure: When = Field("now", description="given up: no receipt in spite of every delivery; or waiting")
    rejected: When = "now"
    recovered: When = Field("now", description="processed after it was told of as rejected or failed")
    late: When = Field("now", description="a file that `expect` asks for: missing, and come after all")
    to: tuple[Tag, ...] = Field((), description="tags of channels; none: all channels without a tag")

    def when(self, kind: Kind) -> When:
        if kind == "canary":
            return "now"
        when: When = getattr(self, {"missing": "late", "waiting": "failure"}.get(kind, kind))
        return when
