"""Opens what MQTT travels on: TCP, through a proxy where one is set, then TLS, then WebSocket.

Every error names the broker and the key of the configuration that would change it.
"""

from __future__ import annotations

import socket
import ssl
import time
from pathlib import Path
from typing import Any

from gateway.core.errors import BrokerError, SilentBrokerError, plain_reason
from gateway.host.certificates import CertificateFile
from gateway.mqtt.endpoint import Endpoint, Tls
from gateway.mqtt.websocket import WebSocket

_NAME_MISMATCHES, _EXPIRED = (62, 64), 10  # OpenSSL's X509_V_ERR_…
_TLS_ALERT = b"\x15\x03"


def open_transport(endpoint: Endpoint, timeout_s: float) -> Any:
    """Return a connected socket, or what behaves like one. Raises BrokerError or OSError."""
    sock = _through_proxy(endpoint, timeout_s) if endpoint.proxy else _direct(endpoint, timeout_s)
    try:
        sock.settimeout(timeout_s)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if endpoint.tls is not None:
            sock = _over_tls(sock, endpoint, endpoint.tls)
        if endpoint.websocket_path is None:
            return sock
        return _over_websocket(sock, endpoint, endpoint.websocket_path)
    except TimeoutError as exc:
        sock.close()
        raise SilentBrokerError(f"{endpoint.place} accepted the connection but does not answer") from exc
    except BaseException:
        sock.close()
        raise


def unanswered(endpoint: Endpoint, first_bytes: bytes) -> str:
    """Return the likely reason for an answer to CONNECT that is no CONNACK."""
    if first_bytes.startswith(_TLS_ALERT):
        return f"{endpoint.place} answers with TLS; url must begin with mqtts:// (or wss://) for this port"
    if first_bytes.startswith((b"HTTP", b"<")):
        return f"{endpoint.place} answers with HTTP; url must begin with ws:// for a WebSocket port"
    return (
        f"{endpoint.place} closed the connection instead of answering CONNECT; does url name the right kind "
        "of port (mqtt, mqtts, ws, wss), and is the client_id allowed?"
    )


def _direct(endpoint: Endpoint, timeout_s: float) -> socket.socket:
    return socket.create_connection((endpoint.host, endpoint.port), timeout_s)


def _through_proxy(endpoint: Endpoint, timeout_s: float) -> socket.socket:
    try:
        from python_socks import ProxyError, ProxyType  # noqa: PLC0415 - an extra
        from python_socks.sync import Proxy  # noqa: PLC0415
    except ImportError as exc:
        raise BrokerError("proxy needs an extra: pip install 'mqtt-edge-gateway[proxy]'") from exc
    asked = endpoint.proxy
    assert asked is not None  # noqa: S101 - the caller has looked
    kind = ProxyType.HTTP if asked.scheme == "http" else ProxyType.SOCKS5
    proxy = Proxy(kind, asked.host, asked.port, asked.username, asked.password, rdns=True)
    try:
        return proxy.connect(endpoint.host, endpoint.port, timeout=timeout_s)
    except (ProxyError, OSError) as exc:
        reason = plain_reason(exc)
        raise BrokerError(
            f"the proxy {asked.host}:{asked.port} did not connect to {endpoint.place}: {reason}; check proxy"
        ) from exc


def _over_tls(sock: socket.socket, endpoint: Endpoint, tls: Tls) -> ssl.SSLSocket:
    context = tls_context(tls)
    try:
        return context.wrap_socket(sock, server_hostname=tls.server_name or endpoint.host)
    except ssl.SSLCertVerificationError as exc:
        raise BrokerError(f"{endpoint.place}: {_certificate_problem(exc, endpoint, tls)}") from exc
    except (ssl.SSLError, ConnectionError) as exc:
        reason = getattr(exc, "reason", None) or plain_reason(exc)
        if reason in ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE") or not _is_alert(exc):
            raise BrokerError(
                f"{endpoint.place} does not speak TLS on this port; url must begin with mqtt:// (or ws://), "
                "or name the port for TLS"
            ) from exc
        raise BrokerError(refused(endpoint, exc)) from exc


def refused(endpoint: Endpoint, error: OSError) -> str:
    """Return the message for a TLS connection that the broker refused; with TLS 1.3 it does so only after the
    handshake."""
    reason = getattr(error, "reason", None) or plain_reason(error)
    expired = endpoint.tls and _expired(endpoint.tls)
    advice = expired or "check tls.cert_file, key_file and alpn"
    return f"{endpoint.place} refused the TLS connection: {reason}; {advice}"


def _expired(tls: Tls) -> str:
    """Say which of our own files have expired."""
    files = {"tls.ca_file": tls.ca_file, "tls.cert_file": tls.cert_file}
    said = (
        CertificateFile(name, Path(path), holds_authorities=name == "tls.ca_file").warning(time.time(), 0.0)
        for name, path in files.items()
        if path is not None
    )
    return "; ".join(filter(None, said))


def _is_alert(error: OSError) -> bool:
    """Return True if the peer speaks TLS and sent an alert about ours."""
    return "ALERT" in (getattr(error, "reason", None) or "")


def _certificate_problem(error: ssl.SSLCertVerificationError, endpoint: Endpoint, tls: Tls) -> str:
    if error.verify_code in _NAME_MISMATCHES:
        name = tls.server_name or endpoint.host
        return f"its certificate is not for {name}; set tls.server_name to a name that it is for"
    if error.verify_code == _EXPIRED:
        return _expired(tls) or "its certificate has expired; the broker needs a new one"
    trusted = tls.ca_file or "the authorities of this system"
    return f"its certificate is not signed by {trusted} ({error.verify_message}); set tls.ca_file"


def trusting(ca_file: str | Path | None) -> ssl.SSLContext:
    """Build a context that trusts the authorities in a file, or the system's. Raises SSLError, OSError."""
    context = ssl.create_default_context(cafile=ca_file)
    # Python >= 3.13 sets it: authorities made with openssl's defaults lack the key usage that it asks for,
    # and a gateway that trusts them must not lose its broker by an update of Python.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context


def tls_context(tls: Tls) -> ssl.SSLContext:
    """Build the context for `tls`, with its files as they are now. Raises BrokerError."""
    try:
        context = trusting(tls.ca_file)
    except (ssl.SSLError, OSError) as exc:
        raise BrokerError(f"tls.ca_file {tls.ca_file}: {_file_problem(exc, 'no certificate')}") from exc
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if tls.alpn:
        context.set_alpn_protocols(list(tls.alpn))
    if tls.cert_file:
        _load_own(context, tls, tls.cert_file)
    if tls.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _load_own(context: ssl.SSLContext, tls: Tls, cert_file: str) -> None:
    try:
        # Without a password OpenSSL would ask for one on the terminal.
        context.load_cert_chain(cert_file, tls.key_file, password=lambda: _key_password(tls))
    except (ssl.SSLError, OSError, ValueError) as exc:
        if getattr(exc, "reason", "") == "KEY_VALUES_MISMATCH":
            problem = "the key does not belong to the certificate"
        else:
            problem = _file_problem(exc, "no certificate and key, or tls.key_password_file is wrong")
        raise BrokerError(f"tls.cert_file {cert_file}, tls.key_file {tls.key_file}: {problem}") from exc


def _key_password(tls: Tls) -> str:
    if tls.key_password_file is None:
        raise BrokerError("tls.key_file is encrypted; set tls.key_password_file")
    return Path(tls.key_password_file).read_text("utf-8").strip()


def _file_problem(error: Exception, otherwise: str) -> str:
    """Return why a file could not be used: OpenSSL says little about a file it could not read."""
    is_missing = isinstance(error, OSError) and not isinstance(error, ssl.SSLError)
    return plain_reason(error) if is_missing else f"holds {otherwise}"


def _over_websocket(sock: socket.socket, endpoint: Endpoint, path: str) -> WebSocket:
    connection = WebSocket(sock)
    try:
        connection.handshake(endpoint.place, path, endpoint.websocket_headers)
    except TimeoutError:
        raise
    except (BrokerError, OSError) as exc:
        raise BrokerError(f"{endpoint.place}: {plain_reason(exc)}") from exc
    return connection
