"""A certificate authority of the tests' own, and TLS in front of a server that has none."""

import asyncio
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from queue import Queue

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

LOOPBACK = "127.0.0.1"
DAY = timedelta(days=1)
USES = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
    "encipher_only",
    "decipher_only",
)


class Authority:
    """Makes certificates that whoever trusts `file` accepts."""

    def __init__(self, folder: Path, name: str) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _named(name)
        self._folder = folder
        self.file = folder / f"{name}.pem"
        only_a_ca = x509.BasicConstraints(ca=True, path_length=0)
        made = _started(self._name, self._name, self._key).add_extension(only_a_ca, critical=True)
        uses = ("key_cert_sign", "crl_sign")
        signs = x509.KeyUsage(**{name: name in uses for name in USES})
        made = made.add_extension(signs, critical=True)
        self.file.write_bytes(made.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))

    def server(self, address: str = LOOPBACK, until: timedelta = DAY) -> ssl.SSLContext:
        """What a server at this address proves with who it is, `until` so long from now."""
        key = ec.generate_private_key(ec.SECP256R1())
        names = x509.SubjectAlternativeName([x509.IPAddress(ip_address(address))])
        signed = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        made = _started(_named(address), self._name, key, until).add_extension(names, critical=False)
        certificate = made.add_extension(signed, critical=False).sign(self._key, hashes.SHA256())
        file = self._folder / f"{address}-{certificate.serial_number}.pem"
        encoded = (
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        file.write_bytes(key.private_bytes(*encoded) + certificate.public_bytes(serialization.Encoding.PEM))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(file)
        return context


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _started(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, until: timedelta = DAY
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    made = x509.CertificateBuilder(issuer, subject, key.public_key(), x509.random_serial_number())
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    made = made.not_valid_before(now - DAY).not_valid_after(now + until)
    return made.add_extension(identifier, critical=False)


@contextmanager
def in_front_of(
    port: int, context: ssl.SSLContext | None, instead: Callable[[bytes], bytes] = lambda _: b""
) -> Iterator[int]:
    """A port where TLS ends and the bytes go on to `port`.

    `instead` may answer a request of one packet itself, which ends the connection.
    """
    started: Queue[tuple[int, Callable[[], object]]] = Queue()

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there_writer = await asyncio.open_connection(LOOPBACK, port)

        def asked(chunk: bytes) -> bool:
            answer = instead(chunk)
            writer.write(answer)
            return not answer

        await asyncio.gather(_copy(reader, there_writer, asked), _copy(there_reader, writer))

    async def serve() -> None:
        server = await asyncio.start_server(pass_on, LOOPBACK, 0, ssl=context)
        stopped = asyncio.Event()
        stop = partial(asyncio.get_running_loop().call_soon_threadsafe, stopped.set)
        started.put((server.sockets[0].getsockname()[1], stop))
        await stopped.wait()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    there, stop = started.get(timeout=10)
    try:
        yield there
    finally:
        stop()
        thread.join()


async def _copy(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    goes_on: Callable[[bytes], bool] = lambda _: True,
) -> None:
    try:
        while (chunk := await reader.read(65536)) and goes_on(chunk):
            writer.write(chunk)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()
