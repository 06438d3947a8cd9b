"""The certificate of a cluster: made of its token, so whoever knows that makes the same."""

import datetime
import hmac

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.x509.oid import NameOID

from .._types import Certificate

_BEGIN = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
_END = datetime.datetime(9999, 12, 31, 23, 59, 59, tzinfo=datetime.UTC)  # RFC 5280: never


def make_certificate(token: bytes) -> Certificate:
    """Return a certificate, signed by itself, and its key as PEM text: the identity of all processes of a cluster."""
    key = Ed25519PrivateKey.from_private_bytes(hmac.digest(token, b"the key of the certificate", "sha256"))
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "farcall")])
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, _BEGIN, _END)
    for extension in (  # those that the strict checks of Python 3.13 want of a CA
        x509.BasicConstraints(ca=True, path_length=0),
        x509.KeyUsage(True, False, False, False, False, True, False, False, False),  # signs messages and certificates
    ):
        builder = builder.add_extension(extension, critical=True)
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    certificate = builder.sign(key, None).public_bytes(serialization.Encoding.PEM).decode()
    pem = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    return certificate, certificate, key.private_bytes(*pem).decode()
