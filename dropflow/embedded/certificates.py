"""Certificates for the embedded store's processes, so that nobody else on the machine speaks with them."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from dropflow.embedded.private import make_private, write_private

VALID = timedelta(days=3650)
"""Longer than any `up` runs: the next one makes others."""
_AUTHORITY, _HOLDER = "dropflow embedded store", "embedded store"


@dataclass(frozen=True)
class Certificates:
    """PEM files: the authority, and what one who was signed by it shows of himself."""

    authority: Path
    certificate: Path
    key: Path


def make_certificates(folder: Path) -> Certificates:
    """A new authority, and one certificate signed by it. The authority's own key is never written."""
    make_private(folder)
    made = Certificates(*(folder / f"{name}.pem" for name in ("authority", "certificate", "key")))
    ca_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    signs = x509.BasicConstraints(ca=True, path_length=0)
    ca = _named(_AUTHORITY, ca_key).add_extension(signs, critical=True)
    names = x509.SubjectAlternativeName([x509.DNSName("localhost")])
    certificate = _named(_HOLDER, key).add_extension(names, critical=False)
    write_private(made.authority, ca.sign(ca_key, hashes.SHA256()).public_bytes(Encoding.PEM))
    write_private(made.certificate, certificate.sign(ca_key, hashes.SHA256()).public_bytes(Encoding.PEM))
    write_private(made.key, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return made


def _named(name: str, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    """A certificate of this name, to be signed by the authority."""
    now = datetime.now(UTC)
    subject, issuer = (
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, one)]) for one in (name, _AUTHORITY)
    )
    return (
        x509.CertificateBuilder(issuer, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + VALID)
    )
