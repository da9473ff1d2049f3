"""On the lab machine: one call from the provider, whose From is given as it goes over the wire.

invite.py NUMBER SECONDS, with the From header's value on standard input. It hangs up after SECONDS,
also while nobody has answered.
"""

import re
import socket
import sys
import time

number, seconds = sys.argv[1].encode(), float(sys.argv[2])
caller = sys.stdin.buffer.read()
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.bind(("127.0.0.2", 0))
sock.connect(("127.0.0.1", 5060))
port = b"%d" % sock.getsockname()[1]
sdp = (
    b"v=0\r\no=x 1 1 IN IP4 127.0.0.2\r\ns=-\r\nc=IN IP4 127.0.0.2\r\nt=0 0\r\n"
    b"m=audio 40000 RTP/AVP 8\r\n"
)


def send(method: bytes, sequence: bytes, to: bytes = b"", body: bytes = b"") -> None:
    """Send a request of this call."""
    kind = b"Content-Type: application/sdp\r\n" if body else b""
    sock.send(
        b"%s sip:%s@127.0.0.1 SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.0.2:%s;branch=z9hG4bK%s%s\r\n"
        b"From: %s;tag=%s\r\nTo: <sip:%s@127.0.0.1>%s\r\nCall-ID: %s@hostile\r\nCSeq: %s %s\r\n"
        b"Contact: <sip:x@127.0.0.2:%s>\r\nMax-Forwards: 70\r\n%sContent-Length: %d\r\n\r\n%s"
        % (
            *(method, number, port, port, b"INVITE" if method == b"CANCEL" else method),
            *(caller, port, number, to, port, sequence, method, port, kind, len(body), body),
        )
    )


# an INVITE of more than a packet is sent once all the same: it is loopback
send(b"INVITE", b"1", body=sdp)
end = time.monotonic() + seconds
tag = b""
status = b"none"
while time.monotonic() < end:
    sock.settimeout(max(0.01, end - time.monotonic()))
    try:
        reply = sock.recv(65536)
    except socket.timeout:
        break
    status = reply.split(b" ")[1]
    found = re.search(rb"\r\nTo:[^\r]*(;tag=[^;\r]+)", reply)
    tag = found[1] if found else tag
    if status >= b"200":
        send(b"ACK", b"1", tag)
        if status >= b"300":
            break
if status == b"200":
    send(b"BYE", b"2", tag)
elif status < b"200":
    send(b"CANCEL", b"1")
print(status.decode())
