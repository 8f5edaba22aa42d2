"""Certificates: whom we trust, and what to do about one we do not."""

import ssl
from collections.abc import Iterator
from pathlib import Path

from dropflow.errors import TransientError, UntrustedError

UNKNOWN = "set DROPFLOW_CA_FILE to a PEM file with the certificate of the authority that signed it"
ELSEWHERE = "use an address that the certificate is for"
TO_DO = {9: "set the clocks by NTP", 10: "have it renewed", 62: ELSEWHERE, 64: ELSEWHERE}
"""By OpenSSL's numbers: not valid yet, expired, another name's, another IP address'."""


def trust(ca_file: Path | None) -> ssl.SSLContext | bool:
    """What httpx verifies by: the authorities in the file, or without one those httpx knows."""
    return ssl.create_default_context(cafile=ca_file) if ca_file else True


def unreachable(what: str, error: Exception) -> UntrustedError | TransientError:
    """The error of a connection that failed: trying again makes no certificate a trusted one."""
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            to_do = TO_DO.get(cause.verify_code, UNKNOWN)
            return UntrustedError(f"{what}: its certificate is not accepted: {cause.verify_message}; {to_do}")
        # urllib3, below boto3, compares names itself and has an error of its own for it.
        if type(cause).__name__ == "CertificateError":
            return UntrustedError(f"{what}: its certificate is not accepted: {cause}; {ELSEWHERE}")
    return TransientError(f"{what}: {error!r}")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error, and all that it was raised from or was given."""
    seen: set[int] = set()
    waiting = [error]
    while waiting:
        one = waiting.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        given = (*one.args, getattr(one, "reason", None), getattr(one, "kwargs", {}).get("error"))
        waiting += [one.__cause__, one.__context__, *(x for x in given if isinstance(x, BaseException))]
