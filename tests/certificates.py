"""Certificates for tests: short-lived, and as quick to make as they get."""

import datetime
import ipaddress
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from farcall._transport.credentials import Credentials

_HOUR = datetime.timedelta(hours=1)


class Authority:
    """A CA, and the credentials that it hands out as texts or as files."""

    def __init__(self, name: str = "CA of a test") -> None:
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self._key = ec.generate_private_key(ec.SECP256R1())
        authority = x509.BasicConstraints(ca=True, path_length=None)
        builder = _begin(self._name, self._name, self._key).add_extension(authority, critical=True)
        self.certificate = _sign(builder, self._key)

    def issue(self, *, starts: float = -1, ends: float = 1, address: str = "") -> tuple[str, str]:
        """Return a certificate and its key as texts; it is valid between some hours from now, and for an address."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "somebody")])
        builder = _begin(name, self._name, key, starts, ends)
        if address:
            names = [x509.IPAddress(ipaddress.ip_address(address))]
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return _sign(builder, self._key), write_key(key)

    def credentials(self, **validity: float) -> Credentials:
        """Return credentials of somebody whom this CA knows."""
        return Credentials(self.certificate, *self.issue(**validity))

    def write(self, directory: Path) -> list[str]:
        """Write the CA, a certificate and its key to files, and return their paths."""
        paths = [directory / name for name in ("ca.pem", "certificate.pem", "key.pem")]
        for path, text in zip(paths, (self.certificate, *self.issue()), strict=True):
            path.write_text(text)
        return [str(path) for path in paths]


def write_key(key: Any, passphrase: bytes | None = None) -> str:
    """Return a key as text, protected if there is a passphrase."""
    protection = serialization.BestAvailableEncryption(passphrase) if passphrase else serialization.NoEncryption()
    kind = serialization.PrivateFormat.PKCS8
    text: bytes = key.private_bytes(serialization.Encoding.PEM, kind, protection)
    return text.decode()


def sign_oneself() -> tuple[str, str]:
    """Return a certificate that is its own CA, and its key, as Dask's ``Security.temporary`` makes them."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "dask-internal")])
    return _sign(_begin(name, name, key), key), write_key(key)


def _begin(subject: Any, issuer: Any, key: Any, starts: float = -1, ends: float = 1) -> Any:
    now = datetime.datetime.now(tz=datetime.UTC)
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key.public_key())
    builder = builder.serial_number(x509.random_serial_number())
    return builder.not_valid_before(now + starts * _HOUR).not_valid_after(now + ends * _HOUR)


def _sign(builder: Any, key: Any) -> str:
    text: bytes = builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    return text.decode()
