"""Who may speak TLS with us: what Dask's ``Security`` holds for one role.

Both sides present a certificate that the cluster's own CA has signed. The name in it is not compared with the host:
workers come up wherever there is room, and the CA signs for nobody else.
"""

import os
import ssl
import tempfile
from dataclasses import dataclass, field
from typing import NoReturn


@dataclass(frozen=True, repr=False)
class Credentials:
    """The CA that both sides trust, our certificate, and its key; each a path, or the PEM text itself.

    Without a key the certificate's file holds it too. Everything is read and checked here: OSError if a file cannot
    be read, ValueError if something in it is not what it should be; both say which of the three it is.
    """

    ca: str
    certificate: str
    key: str | None = None
    dialling: ssl.SSLContext = field(init=False, compare=False)
    listening: ssl.SSLContext = field(init=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "dialling", _make_context(ssl.PROTOCOL_TLS_CLIENT, self))
        object.__setattr__(self, "listening", _make_context(ssl.PROTOCOL_TLS_SERVER, self))

    def __repr__(self) -> str:
        return f"<Credentials: certificate {_name(self.certificate)}, CA {_name(self.ca)}>"

    def explain(self, error: ssl.SSLError) -> str:
        """Return what a failed handshake means and what to do."""
        if isinstance(error, ssl.SSLCertVerificationError):
            said = _DISTRUST.get(error.verify_code, "is not acceptable: {message}")
            return f"the peer's certificate {said.format(ca=_name(self.ca), message=error.verify_message)}"
        for part, said in _REASONS.items():
            if part in (error.reason or ""):
                return said.format(certificate=_name(self.certificate))
        return f"TLS with the peer failed: {error.reason or error}"


def _make_context(protocol: int, credentials: Credentials) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    # No session tickets. They come after the handshake, so that a dialler that only sends has unread bytes when it
    # closes, and TCP would then reset the connection; and every session shall prove anew who it is.
    if protocol == ssl.PROTOCOL_TLS_SERVER:
        context.num_tickets = 0
    _load_ca(context, credentials.ca)
    _load_certificate(context, credentials.certificate, credentials.key)
    return context


def _load_ca(context: ssl.SSLContext, ca: str) -> None:
    try:
        if _is_text(ca):
            context.load_verify_locations(cadata=ca)
        else:
            _check_readable("CA", ca)
            context.load_verify_locations(cafile=ca)
    except (ssl.SSLError, UnicodeError) as error:
        raise ValueError(f"there is no certificate in the CA {_name(ca)}: it begins with {_BEGIN}") from error


def _load_certificate(context: ssl.SSLContext, certificate: str, key: str | None) -> None:
    with tempfile.TemporaryDirectory() as directory:  # ssl reads its own certificate from files only; nobody else may
        paths = [
            _as_file(what, given, directory)
            for what, given in (("certificate", certificate), ("key", key))
            if given is not None
        ]
        try:
            context.load_cert_chain(paths[0], paths[-1], password=lambda: _refuse_passphrase(key or certificate))
        except ssl.SSLError as error:
            raise ValueError(_explain_files(error, certificate, key)) from error


def _as_file(what: str, given: str, directory: str) -> str:
    if not _is_text(given):
        _check_readable(what, given)
        return given
    path = os.path.join(directory, what)
    with open(path, "w", encoding="ascii") as file:
        file.write(given)
    return path


def _check_readable(what: str, path: str) -> None:
    try:
        open(path, "rb").close()
    except OSError as error:
        raise type(error)(error.errno, f"the {what} cannot be read: {error.strerror}", path) from None


def _refuse_passphrase(key: str) -> NoReturn:
    raise ValueError(
        f"the key {_name(key)} is protected by a passphrase, which nobody can type on a worker: "
        "write it without one (openssl pkey -in KEY -out PLAIN)"
    )


def _explain_files(error: ssl.SSLError, certificate: str, key: str | None) -> str:
    if error.reason == "KEY_VALUES_MISMATCH":
        return f"the key {_name(key or certificate)} belongs to another certificate than {_name(certificate)}"
    if key is None:
        return f"{_name(certificate)} does not hold a certificate and its key: name the key too, or append it"
    return f"there is no certificate in {_name(certificate)} ({_BEGIN}), or no key in {_name(key)}: {error.reason}"


def _is_text(given: str) -> bool:
    return "\n" in given  # the rule of Dask's Security


def _name(given: str) -> str:
    """Return how to speak of a path or a text, without showing a key to anybody."""
    return "(given as text)" if _is_text(given) else given


_BEGIN = "-----BEGIN CERTIFICATE-----"

_OTHER_CA = "was not signed by our CA {ca}: both sides need certificates of the same CA"
_DISTRUST = {  # by OpenSSL's X509_V_ERR_…
    7: _OTHER_CA,
    9: "is not valid yet: set the clocks of both hosts",
    10: "has expired: issue a new one, and start the peer with it",
    18: _OTHER_CA,
    19: _OTHER_CA,
    20: _OTHER_CA,
    21: _OTHER_CA,
}
_REASONS = {  # by a part of OpenSSL's reason; the first that fits
    "ALERT_CERTIFICATE_EXPIRED": "the peer says that our certificate {certificate} has expired: issue a new one",
    "ALERT_UNKNOWN_CA": "the peer does not trust the CA of our certificate {certificate}: both sides need the same CA",
    "ALERT_CERTIFICATE_REQUIRED": "the peer wants a certificate and has got none",
    "CERTIFICATE": "the peer does not accept our certificate {certificate}, or has none: both sides need one",
    "PROTOCOL": "the peer does not speak TLS 1.3, which both sides must",
    "HTTP_REQUEST": "the peer speaks HTTP; here is farcall's protocol over TLS",
    "WRONG_VERSION": "the peer does not speak TLS: both sides must use tls: addresses",
}
