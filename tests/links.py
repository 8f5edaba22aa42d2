"""Links between processes of this machine that can be cut as a network is: packets are lost, and nobody is told.

Everything runs in a network namespace of its own, where all of 127.0.0.0/8 is this machine: each client is given
another address of the same server, and a rule of the kernel drops what is answered from it. What is sent to it
still arrives: the worse half of a partition, in which a server does what nobody hears of.
"""

import os
import shutil
import subprocess
import sys

_INSIDE = "DROPFLOW_TESTS_NAMESPACE"
_LOCAL = "100"
"""Behind the rules that cut links; the kernel's own has number 0, and nothing goes before it."""


def enter_namespace() -> None:
    """Start this program anew in its own network and mounts. Exits where that is not allowed."""
    if _INSIDE not in os.environ:
        if os.geteuid() or not shutil.which("unshare") or not shutil.which("ip"):
            sys.exit(
                "needs root, for a network of its own, and the programs unshare (util-linux) and ip (iproute2)"
            )
        os.environ[_INSIDE] = "1"
        os.execvp("unshare", ["unshare", "--net", "--mount", sys.executable, *sys.argv])  # noqa: S606, S607
    del os.environ[_INSIDE]
    _ip("link", "set", "lo", "up")
    _ip("rule", "add", "pref", _LOCAL, "lookup", "local")
    _ip("rule", "del", "pref", "0")


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)  # noqa: S607


class Link:
    """An address by which one client alone reaches a server that listens on all of them."""

    def __init__(self, address: str) -> None:
        self.address = address

    def cut(self) -> None:
        _ip("rule", "add", "pref", "10", "from", self.address, "blackhole")

    def mend(self) -> None:
        _ip("rule", "del", "pref", "10", "from", self.address, "blackhole")
