"""The CRM of call_routing's bench: answers each request after so many seconds, and measures itself.

slow_crm.py PORT SECONDS. /stats returns {caller: seconds that its answers took, all together}.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

PORT, SECONDS = int(sys.argv[1]), float(sys.argv[2])
CONTACT = {"name": "Ann Example", "id": "4711", "language": "de", "vip": False}
taken: dict[str, float] = {}


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer one connection."""
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            began = time.perf_counter()
            _, what, *numbers = head.split(b" ", 2)[1].decode().split("/")
            if what == "stats":
                body = json.dumps(taken)
                taken.clear()
            else:
                if SECONDS:
                    await asyncio.sleep(SECONDS)
                body = json.dumps({"target": "queue:vip"} if what == "route" else CONTACT)
            writer.write(
                b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
                % (len(body), body.encode())
            )
            await writer.drain()
            if numbers:
                caller = numbers[0]
                taken[caller] = taken.get(caller, 0.0) + time.perf_counter() - began
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


async def main() -> None:
    """Serve for ever."""
    server = await asyncio.start_server(serve, "127.0.0.1", PORT, backlog=256)
    await server.serve_forever()


asyncio.run(main())
